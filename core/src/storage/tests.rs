use super::memory::{Loss, MemoryDevice};
use super::{Device, conformance};

#[test]
fn memory_device_keeps_what_the_traits_promise() {
    conformance(&MemoryDevice::new());
    conformance(&MemoryDevice::durable());
}

#[test]
fn a_crash_takes_what_was_not_synced() {
    let device = MemoryDevice::durable();
    let file = device.create("dir/file").unwrap();
    file.append(&[b"synced"]).unwrap();
    file.sync().unwrap();
    assert!(device.crash(Loss::Unsynced).files().is_empty(), "the name was not synced");
    device.sync_dir("dir").unwrap();
    assert!(device.crash(Loss::Unsynced).files().is_empty(), "nor the directory's");
    device.sync_dir("").unwrap();
    file.append(&[b" and not"]).unwrap();
    assert_eq!(device.crash(Loss::Unsynced).read("dir/file").unwrap(), "synced");
    assert_eq!(device.crash(Loss::Nothing).read("dir/file").unwrap(), "synced and not");
    file.truncate(2).unwrap();
    file.append(&[b"!"]).unwrap();
    assert_eq!(device.crash(Loss::Unsynced).read("dir/file").unwrap(), "synced");
    assert_eq!(device.crash(Loss::Nothing).read("dir/file").unwrap(), "sy!");
    device.remove("dir/file").unwrap();
    assert_eq!(device.crash(Loss::Unsynced).read("dir/file").unwrap(), "synced");
    assert!(device.crash(Loss::Nothing).files().is_empty());
}

#[test]
fn a_torn_crash_keeps_what_was_synced_and_follows_from_its_seed() {
    let device = MemoryDevice::durable();
    let file = device.create("file").unwrap();
    device.sync_dir("").unwrap();
    file.append(&[&[1; 1000]]).unwrap();
    file.sync().unwrap();
    for _ in 0..10 {
        file.append(&[&[2; 700]]).unwrap();
    }
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let bytes = device.crash(Loss::Torn(seed)).read("file").unwrap();
        assert_eq!(bytes, device.crash(Loss::Torn(seed)).read("file").unwrap());
        assert_eq!(&bytes[..1000], &[1; 1000]);
        lengths.insert(bytes.len());
    }
    assert!(lengths.len() > 20, "{lengths:?}");
}

#[test]
fn names_reach_the_disk_in_any_order() {
    let device = MemoryDevice::durable();
    for name in ["a", "b", "c"] {
        device.create(name).unwrap();
    }
    let left = |loss| device.crash(loss).files().into_keys().collect::<String>();
    let torn: std::collections::BTreeSet<String> = (0..100).map(|seed| left(Loss::Torn(seed))).collect();
    assert_eq!(torn.into_iter().collect::<Vec<_>>(), ["", "a", "ab", "abc"]);
    let shuffled: std::collections::BTreeSet<String> = (0..100).map(|seed| left(Loss::Shuffled(seed))).collect();
    assert_eq!(shuffled.len(), 8, "{shuffled:?}");
}

#[test]
fn a_failed_sync_loses_its_bytes_even_if_the_next_one_succeeds() {
    let device = MemoryDevice::durable();
    let file = device.create("file").unwrap();
    device.sync_dir("").unwrap();
    device.fail_sync_at(1);
    file.append(&[b"lost"]).unwrap();
    assert!(file.sync().is_err());
    file.append(&[b"kept"]).unwrap();
    file.sync().unwrap();
    assert_eq!(file.read_at(0, 8).unwrap(), "lostkept");
    assert_eq!(device.crash(Loss::Nothing).read("file").unwrap(), "\0\0\0\0kept");
}

#[test]
fn a_full_device_refuses_and_has_room_again_after_a_removal() {
    let device = MemoryDevice::durable();
    let other = device.create("other").unwrap();
    other.append(&[&[0; 60]]).unwrap();
    device.set_capacity(Some(100));
    let file = device.create("file").unwrap();
    let error = file.append(&[&[1; 50]]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(file.len(), 0);
    device.remove("other").unwrap();
    file.append(&[&[1; 50]]).unwrap();
    assert_eq!(file.len(), 50);
}
