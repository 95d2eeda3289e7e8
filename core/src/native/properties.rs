//! A client's options as people have them already: a `client.properties` of Java's clients or of librdkafka, and passwords that
//! stand elsewhere.

use std::fs;
use std::path::Path;

use regex_lite::Regex;

use crate::client::{ClientConfig, ConsumerConfig, Options, ProducerConfig};
use crate::{Error, ErrorKind, Result};

/// Reads a file of properties.
///
/// The names are Kafka's; librdkafka's for TLS and SASL are known, too, and `sasl.jaas.config` with a username and a password. What
/// other clients have and we do not is left out with a warning, as Java does; so is `bootstrap.servers`, which commands take as an
/// argument.
///
/// # Errors
/// `NotFound` and the like if the file cannot be read; `Unsupported` if it needs what we cannot do.
pub fn read(path: &Path) -> Result<Options> {
    let text = fs::read_to_string(path)
        .map_err(|error| Error::from(error).context(format_args!("file={}", path.display())))?;
    let mut options = Options::new();
    for (name, value) in pairs(&text) {
        if !set(&mut options, &name, &value).map_err(|error| error.context(format_args!("file={}", path.display())))? {
            log::warn!("an option that Ottla does not have is left out name={name} file={}", path.display());
        }
    }
    Ok(options)
}

/// The pairs of a file of properties, as `java.util.Properties` reads them. Ours, because the crate for it brings a large
/// regular-expression engine and tables of old character sets, 0.75 MB in each program; and UTF-8, as people write it today.
fn pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim_start().to_owned();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        // An odd number of backslashes at the end: it goes on in the next line.
        while line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
            line.pop();
            match lines.next() {
                Some(next) => line.push_str(next.trim_start()),
                None => break,
            }
        }
        let mut escaped = false;
        let end = line.find(|character: char| {
            let ends = !escaped && (matches!(character, '=' | ':') || character.is_whitespace());
            escaped = !escaped && character == '\\';
            ends
        });
        let (name, rest) = line.split_at(end.unwrap_or(line.len()));
        let rest = rest.trim_start();
        let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start();
        pairs.push((unescaped(name), unescaped(value)));
    }
    pairs
}

/// A text with what backslashes stand for.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\x0c'),
            Some('u') => {
                let digits: String = characters.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok();
                plain.push(code.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

/// Sets an option that is written as a text, under any of its names; whether there is one of that name.
///
/// # Errors
/// `Invalid` if a password is said to be elsewhere and is not, `Unsupported` if the value needs what we cannot do.
pub fn set(options: &mut Options, name: &str, value: &str) -> Result<bool> {
    let unsupported = |what: &str| Err(Error::new(ErrorKind::Unsupported, format!("{what} name={name}")));
    let ours = match name {
        "bootstrap.servers" => return Ok(true),
        "sasl.mechanisms" | "sasl.mechanism" => "sasl_mechanism",
        "sasl.username" => "sasl_plain_username",
        "sasl.password" => "sasl_plain_password",
        "ssl.ca.location" | "ssl.truststore.location" => "ssl_cafile",
        "ssl.certificate.location" | "ssl.keystore.location" => "ssl_certfile",
        "ssl.key.location" => "ssl_keyfile",
        "ssl.key.password" | "ssl.keystore.password" => "ssl_password",
        // A PEM file of certificates has none.
        "ssl.truststore.password" => return Ok(true),
        "ssl.crl.location" => "ssl_crlfile",
        "ssl.truststore.type" | "ssl.keystore.type" if value.eq_ignore_ascii_case("PEM") => return Ok(true),
        "ssl.truststore.type" | "ssl.keystore.type" => {
            return unsupported(
                "stores are read in PEM only: convert it (`keytool -exportcert -rfc`, `openssl pkcs12 -nodes`)",
            );
        }
        "ssl.endpoint.identification.algorithm" => {
            options.set("ssl_check_hostname", !(value.is_empty() || value.eq_ignore_ascii_case("none")));
            return Ok(true);
        }
        "sasl.jaas.config" => {
            for (part, ours) in [("username", "sasl_plain_username"), ("password", "sasl_plain_password")] {
                match jaas(value, part) {
                    Some(found) => options.set(ours, found),
                    None => return unsupported("only a login module with username and password is understood"),
                };
            }
            return Ok(true);
        }
        other => {
            let ours = other.replace(['.', '-'], "_");
            let mut known =
                [ClientConfig::OPTIONS, ProducerConfig::OPTIONS, ConsumerConfig::OPTIONS].into_iter().flatten();
            let is_known = known.any(|option| option.name == ours);
            if is_known {
                options.set(&ours, resolve(name, value)?);
            }
            return Ok(is_known);
        }
    };
    options.set(ours, resolve(name, value)?);
    Ok(true)
}

/// The value itself, or what `env:NAME` and `file:PATH` stand for: a command line is for everybody to see.
///
/// # Errors
/// `Invalid` if the variable is not set, or the file cannot be read.
pub fn resolve(name: &str, value: &str) -> Result<String> {
    if let Some(variable) = value.strip_prefix("env:") {
        return std::env::var(variable).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                format!("the option's environment variable: {error} option={name} variable={variable}"),
            )
        });
    }
    if let Some(path) = value.strip_prefix("file:") {
        let text = fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("the option's file: {error} option={name} file={path}"))
        })?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(value.to_owned())
}

/// An option of a login module: `name="value"` or `name='value'`, with backslashes before quotes.
fn jaas(text: &str, name: &str) -> Option<String> {
    let pattern = format!(r#"\b{name}\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s;"']+))"#);
    let found = Regex::new(&pattern).ok()?.captures(text)?;
    let value = found.get(1).or_else(|| found.get(2)).or_else(|| found.get(3))?.as_str();
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    Some(plain)
}

#[cfg(test)]
#[path = "properties_tests.rs"]
mod tests;
