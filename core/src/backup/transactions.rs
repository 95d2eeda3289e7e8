//! Transactions that are whole: a cut that has a transaction's end in one partition has it in all.
//!
//! A partition's cut is its last stable offset, so that no transaction is cut in two within it. But partitions are asked one
//! after the other, and a coordinator writes a transaction's markers one after the other: a transaction may be before the cut
//! of one partition and behind that of another. Such a cut is moved on, past the marker that it lacks.
//!
//! A transaction is known again by its producer's epoch, which is its own since KIP-890 (brokers of Kafka 4 with clients that
//! know it). Those of other clients cannot be told apart: of them the last may be in some of its partitions alone, as a
//! consumer sees it that reads them at that moment.

use std::collections::HashMap;
use std::time::Duration;

use super::recording::Recording;
use crate::clock::Clock;
use crate::record::batches;
use crate::replication::{Assignment, CopyOptions, PartitionCopied, Progress, Source, TopicPartition, Until, copy};
use crate::{Error, Result};

/// How often cuts are moved. Each time they are moved over what producers have done meanwhile, which may part again.
const ROUNDS: usize = 5;
/// How long a marker is waited for that other partitions have: its coordinator is writing it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// How much is read at a time.
const READ_BYTES: usize = 1 << 20;

/// A transaction: its producer and the producer's epoch in it. What a producer begins it ends before it begins the next, so the
/// last in each partition says enough.
pub(super) type Transaction = (i64, i16);

/// Assignments for the partitions whose cut lacks a transaction that is in another partition's, with the cut past it.
///
/// `looked_until` is where each partition ended when the cuts had been made, in the order of `assignments`.
async fn torn(
    source: &dyn Source,
    recording: &Recording<'_>,
    assignments: &[Assignment],
    looked_until: &[i64],
) -> Result<Vec<(usize, i64)>> {
    // The last that has ended, by producer and partition.
    let mut ended: HashMap<Transaction, Vec<TopicPartition>> = HashMap::new();
    for assignment in assignments {
        for transaction in recording.ended(&assignment.partition).await {
            ended.entry(transaction).or_default().push(assignment.partition.clone());
        }
    }
    let mut torn = Vec::new();
    if ended.is_empty() {
        return Ok(torn);
    }
    for (index, assignment) in assignments.iter().enumerate() {
        let partition = &assignment.partition;
        let until = looked_until[index];
        let mut at = assignment.bounds.end;
        let mut found = None;
        while at < until && found.is_none() {
            let read = source.read(partition, at, READ_BYTES).await?;
            let before = at;
            for batch in batches(read) {
                let batch = batch.map_err(|error| Error::from(error).context(format_args!("partition={partition}")))?;
                if batch.base_offset() >= until {
                    break;
                }
                at = at.max(batch.next_offset());
                let transaction = (batch.producer_id(), batch.producer_epoch());
                if batch.is_transactional()
                    && !batch.is_control()
                    && batch.base_offset() >= assignment.bounds.end
                    && ended.get(&transaction).is_some_and(|places| places.iter().any(|place| place != partition))
                {
                    found = Some(batch.base_offset());
                    break;
                }
            }
            if at == before {
                break;
            }
        }
        torn.extend(found.map(|first| (index, first)));
    }
    Ok(torn)
}

/// Moves the cuts of `assignments` on until transactions are whole, as far as that can be had, and copies what is between.
/// Returns what was copied, and the partitions of which a transaction may be missing that others have.
pub(super) async fn settle(
    source: &dyn Source,
    recording: &Recording<'_>,
    assignments: &mut [Assignment],
    mut looked_until: Vec<i64>,
    clock: &dyn Clock,
    options: &CopyOptions,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<(Vec<PartitionCopied>, Vec<TopicPartition>)> {
    let mut copied = Vec::new();
    for _ in 0..ROUNDS {
        let torn = torn(source, recording, assignments, &looked_until).await?;
        if torn.is_empty() {
            return Ok((copied, Vec::new()));
        }
        let names: Vec<TopicPartition> = torn.iter().map(|(index, _)| assignments[*index].partition.clone()).collect();
        let begun = clock.monotonic();
        loop {
            let bounds = source.bounds(&names, Until::LastStable).await?;
            let bounds = bounds.into_iter().collect::<Result<Vec<_>>>()?;
            let is_there = torn.iter().zip(&bounds).all(|((_, first), bounds)| bounds.end > *first);
            if is_there || clock.monotonic() - begun >= PATIENCE {
                for ((index, _), bounds) in torn.iter().zip(bounds) {
                    let cut = &mut assignments[*index].bounds.end;
                    *cut = bounds.end.max(*cut);
                }
                break;
            }
            clock.sleep(LOOK).await;
        }
        let all: Vec<TopicPartition> = assignments.iter().map(|assignment| assignment.partition.clone()).collect();
        let ends = source.bounds(&all, Until::HighWatermark).await?;
        for (until, bounds) in looked_until.iter_mut().zip(ends) {
            *until = bounds?.end;
        }
        let moved: Vec<Assignment> = torn.iter().map(|(index, _)| assignments[*index].clone()).collect();
        copied
            .extend(copy(source, recording, &moved, options, progress).await?.all()?.partitions.into_iter().flatten());
    }
    let torn = torn(source, recording, assignments, &looked_until).await?;
    Ok((copied, torn.into_iter().map(|(index, _)| assignments[index].partition.clone()).collect()))
}
