//! Which topics or groups: names and patterns.

use std::fmt;
use std::str::FromStr;

use regex_lite::Regex;

use crate::{Error, ErrorKind, Result};

/// A choice of topics or groups by name: everything, or a list of names and patterns.
///
/// What consists of the characters of a topic's name (letters, digits, `.`, `_`, `-`) is a name; anything else is a regular
/// expression that has to match the whole name, as Kafka's subscriptions by pattern. Names that begin with `__` are Kafka's
/// own and have to be named.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    choices: Vec<Choice>,
    /// Names that are chosen whatever the choices say.
    also: Vec<String>,
}

#[derive(Clone, Debug)]
enum Choice {
    Name(String),
    Pattern { text: String, regex: Regex },
}

impl Selection {
    /// Everything but what is Kafka's own.
    pub fn all() -> Self {
        Self::default()
    }

    /// What any of `choices` names or matches; everything if there are none.
    ///
    /// # Errors
    /// `Invalid` if one is empty or not a regular expression.
    pub fn new<I: IntoIterator<Item = S>, S: AsRef<str>>(choices: I) -> Result<Self> {
        let choices = choices.into_iter().map(|choice| Choice::parse(choice.as_ref().trim())).collect::<Result<_>>()?;
        Ok(Self { choices, also: Vec::new() })
    }

    /// The same, and `name`, which need not be there.
    #[must_use]
    pub(super) fn also(mut self, name: &str) -> Self {
        self.also.push(name.to_owned());
        self
    }

    /// Whether it chooses everything.
    pub fn is_all(&self) -> bool {
        self.choices.is_empty()
    }

    /// Whether it chooses `name`.
    pub fn matches(&self, name: &str) -> bool {
        if self.also.iter().any(|also| also == name) {
            return true;
        }
        let is_internal = name.starts_with("__");
        if self.choices.is_empty() {
            return !is_internal;
        }
        self.choices.iter().any(|choice| match choice {
            Choice::Name(chosen) => chosen == name,
            Choice::Pattern { regex, .. } => !is_internal && regex.is_match(name),
        })
    }

    /// The names, without the patterns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.choices.iter().filter_map(|choice| match choice {
            Choice::Name(name) => Some(name.as_str()),
            Choice::Pattern { .. } => None,
        })
    }

    /// The names and patterns as they were given.
    pub fn choices(&self) -> impl Iterator<Item = &str> {
        self.choices.iter().map(|choice| match choice {
            Choice::Name(text) | Choice::Pattern { text, .. } => text.as_str(),
        })
    }

    /// Fails unless every name, and something at all, is among `found`: what a pattern matches may come later.
    ///
    /// # Errors
    /// `NotFound` with the first that is not.
    pub fn check_names_found<'a>(&self, what: &str, found: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
        if !found.clone().any(|found| self.matches(found)) {
            return self.check_found(what, found);
        }
        match self.names().find(|name| !found.clone().any(|found| found == *name)) {
            Some(name) => Err(Error::new(ErrorKind::NotFound, format!("no such {what} {what}={name}"))),
            None => Ok(()),
        }
    }

    /// The patterns that match nothing of `found`.
    pub fn unmatched<'a>(&self, found: impl Iterator<Item = &'a str> + Clone) -> impl Iterator<Item = &str> {
        self.choices.iter().filter_map(move |choice| match choice {
            Choice::Pattern { text, regex } if !found.clone().any(|found| regex.is_match(found)) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Fails unless every name, and something for every pattern, is among `found`: what is not there is no success.
    ///
    /// # Errors
    /// `NotFound` with the first that is not.
    pub fn check_found<'a>(&self, what: &str, found: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
        for choice in &self.choices {
            let (text, is_found) = match choice {
                Choice::Name(name) => (name, found.clone().any(|found| found == name)),
                Choice::Pattern { text, regex } => (text, found.clone().any(|found| regex.is_match(found))),
            };
            if !is_found {
                return Err(Error::new(ErrorKind::NotFound, format!("no such {what} {what}={text}")));
            }
        }
        Ok(())
    }
}

impl Choice {
    fn parse(text: &str) -> Result<Self> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if text.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a name or pattern is empty"));
        }
        if text.bytes().all(is_name) {
            return Ok(Self::Name(text.to_owned()));
        }
        let regex = Regex::new(&format!("^(?:{text})$")).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("pattern is not a regular expression pattern={text}"))
                .with_source(error)
        })?;
        Ok(Self::Pattern { text: text.to_owned(), regex })
    }
}

/// Names and patterns separated by commas, as on the command line: `a,b,pay.*`. A comma within `{}`, `[]` or `()` is the pattern's.
impl FromStr for Selection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut depth = 0_u32;
        let choices = text.split(|c: char| {
            match c {
                '{' | '[' | '(' => depth += 1,
                '}' | ']' | ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        });
        Self::new(choices)
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, choice) in self.choices().enumerate() {
            write!(f, "{}{choice}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}
