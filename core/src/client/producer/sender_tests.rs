//! A lane's books: what its sequence is after answers that come late, not at all, or say no.

use super::*;
use crate::record::{Builder, BuilderOptions, NO_HEADERS};

const NOW: Duration = Duration::from_secs(100);

fn lane() -> (Lane, Identity) {
    let identity = Identity { producer_id: 7, epoch: 0 };
    let mut lane = Lane::new();
    lane.adopt(identity);
    (lane, identity)
}

/// Sends a batch of one record; returns its place.
fn send(lane: &mut Lane) -> u64 {
    let mut builder = Builder::new(BuilderOptions::default());
    builder.append(1, None, Some(b"value"), NO_HEADERS).unwrap();
    let sealed = Sealed {
        batch: builder.seal(lane.number(1)).unwrap(),
        state: Arc::new(BatchState::new("t".into(), 0)),
        order: lane.order(),
        opened: NOW,
        size: 1,
        tries: 0,
        led: false,
    };
    lane.send(sealed)
}

/// Answers a batch as the driver does; returns what became of it.
fn answer(lane: &mut Lane, order: u64, code: Option<ErrorCode>) -> Verdict {
    let sealed = lane.answered(order).unwrap();
    let lost = Error::new(ErrorKind::Retriable, "lost");
    let response = code.map(|error_code| PartitionProduceResponse { error_code, ..Default::default() });
    let answer = response.as_ref().map_or(Answer::Lost(&lost), Answer::Partition);
    let verdict = lane.judge(&sealed, &answer, &ProducerConfig::default(), NOW);
    if let Verdict::Again { .. } = verdict {
        lane.fault(Renumber::No, NOW);
        lane.resend(sealed);
    }
    verdict
}

/// Sends the first of those that go again; returns its place.
fn send_again(lane: &mut Lane) -> u64 {
    let sealed = lane.again.pop_front().unwrap();
    lane.send(sealed)
}

fn numbers(lane: &Lane) -> Vec<(i16, i32)> {
    lane.again.iter().map(|sealed| (sealed.batch.producer_epoch(), sealed.batch.base_sequence())).collect()
}

#[test]
fn what_may_be_written_keeps_its_number_when_one_before_it_is_given_up() {
    let (mut lane, mut identity) = lane();
    let orders: Vec<u64> = (0..4).map(|_| send(&mut lane)).collect();
    assert!(matches!(answer(&mut lane, orders[0], Some(ErrorCode::NONE)), Verdict::Delivered));
    for order in &orders[1..] {
        assert!(matches!(answer(&mut lane, *order, None), Verdict::Again { .. }));
    }
    // The first of the three has run out of time.
    lane.again.pop_front().unwrap();
    lane.give_up(NOW);
    assert!(lane.may_recover());
    lane.recover(&mut identity);
    assert_eq!(numbers(&lane), [(0, 2), (0, 3)], "the broker may have them by these numbers");

    // It has the first, and says of the second that it has not what was before it.
    let order = send_again(&mut lane);
    assert!(matches!(answer(&mut lane, order, Some(ErrorCode::NONE)), Verdict::Delivered));
    let order = send_again(&mut lane);
    assert!(matches!(answer(&mut lane, order, Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)), Verdict::Failed(_)));
    // Nothing is in doubt any more: a new epoch begins.
    assert!(lane.may_recover());
    lane.recover(&mut identity);
    assert_eq!(lane.number(1), ProducerFields { producer_id: 7, producer_epoch: 1, base_sequence: 0 });
}

#[test]
fn a_late_acknowledgement_does_not_take_the_sequence_back() {
    let (mut lane, mut identity) = lane();
    let orders: Vec<u64> = (0..4).map(|_| send(&mut lane)).collect();
    answer(&mut lane, orders[0], Some(ErrorCode::NONE));
    // Written, and not on all replicas in time; the one behind it is.
    assert!(matches!(answer(&mut lane, orders[1], Some(ErrorCode::REQUEST_TIMED_OUT)), Verdict::Again { .. }));
    answer(&mut lane, orders[2], Some(ErrorCode::NONE));
    answer(&mut lane, orders[3], Some(ErrorCode::NONE));
    lane.recover(&mut identity);
    let order = send_again(&mut lane);
    assert!(matches!(answer(&mut lane, order, Some(ErrorCode::NONE)), Verdict::Delivered));
    // What closes up after one that is refused begins behind all that is written.
    let refused = send(&mut lane);
    assert!(matches!(answer(&mut lane, refused, Some(ErrorCode::INVALID_TIMESTAMP)), Verdict::Failed(_)));
    lane.recover(&mut identity);
    assert_eq!(lane.number(1), ProducerFields { producer_id: 7, producer_epoch: 0, base_sequence: 4 });
}

#[test]
fn the_number_of_one_that_is_refused_after_it_was_sent_twice_is_not_given_to_another() {
    let (mut lane, mut identity) = lane();
    let first = send(&mut lane);
    answer(&mut lane, first, Some(ErrorCode::NONE));
    let second = send(&mut lane);
    assert!(matches!(answer(&mut lane, second, None), Verdict::Again { .. }));
    lane.recover(&mut identity);
    let order = send_again(&mut lane);
    assert!(matches!(answer(&mut lane, order, Some(ErrorCode::INVALID_TIMESTAMP)), Verdict::Failed(_)));
    lane.recover(&mut identity);
    assert_eq!(lane.number(1), ProducerFields { producer_id: 7, producer_epoch: 1, base_sequence: 0 });
}

#[test]
fn what_may_be_written_before_one_that_is_refused_keeps_its_number() {
    let (mut lane, mut identity) = lane();
    let orders: Vec<u64> = (0..4).map(|_| send(&mut lane)).collect();
    answer(&mut lane, orders[0], Some(ErrorCode::NONE));
    // Written, and the answer lost: the one behind it is there, too.
    assert!(matches!(answer(&mut lane, orders[1], None), Verdict::Again { .. }));
    assert!(matches!(answer(&mut lane, orders[2], Some(ErrorCode::NONE)), Verdict::Delivered));
    assert!(matches!(answer(&mut lane, orders[3], Some(ErrorCode::INVALID_TIMESTAMP)), Verdict::Failed(_)));
    assert!(lane.may_recover());
    lane.recover(&mut identity);
    assert_eq!(numbers(&lane), [(0, 1)]);
    let order = send_again(&mut lane);
    assert!(lane.is_held(), "nothing new before it is known");
    assert!(matches!(answer(&mut lane, order, Some(ErrorCode::DUPLICATE_SEQUENCE_NUMBER)), Verdict::Delivered));
    assert!(lane.may_recover());
    lane.recover(&mut identity);
    assert!(!lane.is_held());
    assert_eq!(lane.number(1), ProducerFields { producer_id: 7, producer_epoch: 0, base_sequence: 3 });
}

#[test]
fn what_closes_up_after_it_was_sent_does_so_in_a_new_epoch() {
    let (mut lane, mut identity) = lane();
    let orders: Vec<u64> = (0..3).map(|_| send(&mut lane)).collect();
    answer(&mut lane, orders[0], Some(ErrorCode::NONE));
    assert!(matches!(answer(&mut lane, orders[1], Some(ErrorCode::INVALID_TIMESTAMP)), Verdict::Failed(_)));
    // It may still be on its way: under the number that follows the one that it is given it would be there twice.
    assert!(matches!(answer(&mut lane, orders[2], None), Verdict::Again { .. }));
    lane.recover(&mut identity);
    assert_eq!(numbers(&lane), [(1, 0)]);
}

#[test]
fn a_batch_is_due_at_its_deadline_and_not_only_behind_it() {
    let config = ProducerConfig::default();
    let mut accumulator = Accumulator::new(&config, 1);
    let partition = super::super::super::Partition {
        leader: Some(0),
        leader_epoch: 0,
        replicas: vec![0],
        in_sync_replicas: vec![0],
        offline_replicas: vec![],
    };
    let topic = super::super::Topic {
        name: "t".into(),
        id: uuid::Uuid::nil(),
        is_internal: false,
        partitions: vec![partition],
    };
    accumulator.learn(&topic);
    accumulator.push("t", Some(0), 1, None, Some(b"value"), &[], || NOW).unwrap();
    let mut roused = Vec::new();
    accumulator.take_roused(&mut roused);
    let before = NOW.saturating_sub(Duration::from_nanos(1));
    assert!(accumulator.take_older(roused[0], before).is_empty());
    assert_eq!(accumulator.take_older(roused[0], NOW).len(), 1);
}
