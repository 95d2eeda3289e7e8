//! Replicas of a part of what a source has: some partitions, or what comes from a place on.

use std::collections::{BTreeMap, BTreeSet};

use super::{Assignment, Sink, Source, Topic, TopicPartition};
use crate::{Error, ErrorKind, Result, Timestamp};

/// Where the copy of a partition begins that has not begun. One that has goes on from its end, whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Begin {
    /// At the source's log start.
    #[default]
    Start,
    /// At the first record of this time or later, in milliseconds since 1970; at the end where there is none.
    Since(Timestamp),
    /// So many offsets before the end. Markers and offsets that compaction has emptied count.
    Last(u64),
}

/// Which part of the chosen topics is copied. Default: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Portion {
    /// Where copies begin.
    pub begin: Begin,
    partitions: BTreeMap<String, BTreeSet<i32>>,
}

impl Portion {
    /// What begins at `begin`, of all partitions.
    pub fn from(begin: Begin) -> Self {
        Self { begin, partitions: BTreeMap::new() }
    }

    /// The same, of a topic that one of `choices` names only the partitions that it names: `orders:0,2`. Topics that are not
    /// named have all of theirs.
    ///
    /// # Errors
    /// `Invalid` if a choice is not of that form.
    pub fn with_partitions<S: AsRef<str>>(mut self, choices: impl IntoIterator<Item = S>) -> Result<Self> {
        for choice in choices {
            let choice = choice.as_ref();
            let invalid = || {
                let message = format!("partitions are chosen as TOPIC:N,N such as orders:0,2 given={choice}");
                Error::new(ErrorKind::Invalid, message)
            };
            let (topic, numbers) = choice.trim().rsplit_once(':').ok_or_else(invalid)?;
            let chosen = self.partitions.entry(topic.to_owned()).or_default();
            for number in numbers.split(',') {
                let number = number.trim().parse().ok().filter(|number| *number >= 0).ok_or_else(invalid)?;
                chosen.insert(number);
            }
        }
        Ok(self)
    }

    /// The choices of partitions as [`with_partitions`](Self::with_partitions) takes them.
    pub fn choices(&self) -> Vec<String> {
        let choice = |(topic, numbers): (&String, &BTreeSet<i32>)| {
            let numbers: Vec<String> = numbers.iter().map(i32::to_string).collect();
            format!("{topic}:{}", numbers.join(","))
        };
        self.partitions.iter().map(choice).collect()
    }

    /// Whether `partition` is in it.
    pub fn includes(&self, partition: &TopicPartition) -> bool {
        self.partitions.get(&*partition.topic).is_none_or(|chosen| chosen.contains(&partition.partition))
    }

    /// Fails unless every partition that is chosen is one of `topics`.
    ///
    /// # Errors
    /// `NotFound` with the first that is not.
    pub fn check_found(&self, topics: &[Topic]) -> Result<()> {
        for (name, chosen) in &self.partitions {
            let count = topics.iter().find(|topic| topic.name == *name).map_or(0, |topic| topic.partitions.len());
            if let Some(missing) = chosen.iter().find(|number| **number as usize >= count) {
                let message = format!("no such partition partition={name}-{missing} partitions={count}");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
        }
        Ok(())
    }

    /// Lets those of `assignments` that have not begun in `sink` begin where they should.
    ///
    /// # Errors
    /// What source or sink answer.
    pub(super) async fn narrow(
        &self,
        source: &dyn Source,
        sink: &dyn Sink,
        assignments: &mut [Assignment],
    ) -> Result<()> {
        if self.begin == Begin::Start {
            return Ok(());
        }
        let names: Vec<TopicPartition> = assignments.iter().map(|assignment| assignment.partition.clone()).collect();
        let ends = sink.ends(&names).await?;
        let fresh: Vec<usize> = (0..ends.len()).filter(|index| ends[*index].is_none()).collect();
        let found = match self.begin {
            Begin::Since(time) if !fresh.is_empty() => {
                let names: Vec<TopicPartition> = fresh.iter().map(|index| names[*index].clone()).collect();
                source.offsets_at(&names, time).await?
            }
            _ => Vec::new(),
        };
        let mut found = found.into_iter();
        for index in fresh {
            let bounds = &mut assignments[index].bounds;
            let start = match self.begin {
                Begin::Start => bounds.start,
                Begin::Since(_) => found.next().transpose()?.flatten().unwrap_or(bounds.end),
                Begin::Last(count) => bounds.end.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX)),
            };
            bounds.start = start.clamp(bounds.start, bounds.end);
        }
        Ok(())
    }
}
