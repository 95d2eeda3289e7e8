//! What every device has to do alike.

use std::io;

use super::{Device, Entry};

/// Checks an empty `device` against everything the traits promise, and panics with what differs. Leaves it empty.
///
/// For whoever writes a device: call it from a test.
pub fn conformance(device: &dyn Device) {
    a_file_grows_at_its_end(device);
    a_file_is_cut(device);
    names_are_made_removed_and_changed(device);
    directories_are_listed_and_removed(device);
    a_small_file_is_replaced(device);
    an_open_file_outlives_its_name(device);
    paths_stay_inside(device);
    assert_eq!(list(device, ""), [], "the suite leaves nothing behind");
}

fn a_file_grows_at_its_end(device: &dyn Device) {
    let file = device.create("grows").expect("create");
    assert!(file.is_empty());
    file.append(&[b"one", b"", b"two"]).expect("append");
    file.append(&[]).expect("append nothing");
    assert_eq!(file.len(), 6);
    assert_eq!(&read(&*file, 0, 100), b"onetwo");
    assert_eq!(&read(&*file, 2, 2), b"et");
    assert_eq!(&read(&*file, 6, 1), b"");
    assert_eq!(&read(&*file, 600, 1), b"");
    let other = device.open("grows").expect("open");
    assert_eq!(&read(&*other, 0, 3), b"one");
    drop(other);
    // More parts than one system call takes, and more bytes than one buffer.
    let part = [7; 1000];
    let parts: Vec<&[u8]> = vec![&part; 3000];
    file.append(&parts).expect("append many parts");
    assert_eq!(file.len(), 3_000_006);
    let all = read(&*file, 6, 3_000_000);
    assert!(all.len() == 3_000_000 && all.iter().all(|byte| *byte == 7));
    file.sync().expect("sync");
    device.sync_dir("").expect("sync the root");
    assert_eq!(device.open("grows").expect("open").len(), 3_000_006);
    device.remove("grows").expect("remove");
}

fn a_file_is_cut(device: &dyn Device) {
    let file = device.create("cut").expect("create");
    file.append(&[b"0123456789"]).expect("append");
    file.append(&[b"abc"]).expect("append");
    file.truncate(50).expect("truncate beyond the end");
    assert_eq!(file.len(), 13);
    let before = file.read_at(0, 13).expect("read");
    file.truncate(4).expect("truncate");
    assert_eq!((file.len(), read(&*file, 0, 100)), (4, b"0123".to_vec()));
    file.append(&[b"xyz"]).expect("append");
    assert_eq!(read(&*file, 0, 100), b"0123xyz");
    assert_eq!(&before[..], b"0123456789abc", "what was read stays as it was");
    file.truncate(0).expect("truncate to nothing");
    assert!(file.is_empty());
    file.sync().expect("sync");
    device.remove("cut").expect("remove");
}

fn names_are_made_removed_and_changed(device: &dyn Device) {
    assert_eq!(kind(device.open("a")), io::ErrorKind::NotFound);
    assert_eq!(kind(device.remove("a")), io::ErrorKind::NotFound);
    assert_eq!(kind(device.rename("a", "b")), io::ErrorKind::NotFound);
    device.create("a").expect("create").append(&[b"a"]).expect("append");
    assert_eq!(kind(device.create("a")), io::ErrorKind::AlreadyExists);
    device.create("b").expect("create").append(&[b"bb"]).expect("append");
    device.rename("a", "b").expect("rename onto a file");
    assert!(!device.exists("a").expect("exists") && device.exists("b").expect("exists"));
    assert_eq!(&device.read("b").expect("read")[..], b"a");
    device.remove("b").expect("remove");
    assert!(!device.exists("b").expect("exists"));
}

fn directories_are_listed_and_removed(device: &dyn Device) {
    device.create("t-0/2.log").expect("create makes the directory").append(&[b"22"]).expect("append");
    device.create("t-0/1.log").expect("create");
    device.create_dir("t-0/sub").expect("create a directory");
    device.create_dir("t-0/sub").expect("create a directory that is there");
    device.create("t-0.x").expect("create");
    device.sync_dir("t-0").expect("sync");
    let file = |name: &str, len| Entry { name: name.to_owned(), is_dir: false, len };
    let dir = |name: &str| Entry { name: name.to_owned(), is_dir: true, len: 0 };
    assert_eq!(list(device, ""), [dir("t-0"), file("t-0.x", 0)]);
    assert_eq!(list(device, "t-0"), [file("1.log", 0), file("2.log", 2), dir("sub")]);
    assert_eq!(kind(device.list("t-1")), io::ErrorKind::NotFound);
    device.rename("t-0", "t-0.gone").expect("rename a directory");
    assert!(!device.exists("t-0/1.log").expect("exists"));
    assert_eq!(&device.read("t-0.gone/2.log").expect("read")[..], b"22");
    device.remove_dir("t-0.gone").expect("remove a directory with files");
    assert_eq!(list(device, ""), [file("t-0.x", 0)]);
    device.remove("t-0.x").expect("remove");
    assert_eq!(kind(device.remove_dir("t-0")), io::ErrorKind::NotFound);
}

fn a_small_file_is_replaced(device: &dyn Device) {
    device.replace("d/checkpoint", b"first").expect("replace nothing");
    device.replace("d/checkpoint", b"2nd").expect("replace something");
    assert_eq!(&device.read("d/checkpoint").expect("read")[..], b"2nd");
    assert_eq!(list(device, "d").len(), 1, "no temporary file stays");
    device.remove_dir("d").expect("remove");
}

fn an_open_file_outlives_its_name(device: &dyn Device) {
    let file = device.create("old").expect("create");
    file.append(&[b"still"]).expect("append");
    device.rename("old", "new").expect("rename");
    file.append(&[b" here"]).expect("append after a rename");
    assert_eq!(device.read("new").expect("read"), "still here");
    device.remove("new").expect("remove");
    assert_eq!(read(&*file, 0, 100), b"still here");
    device.create("new").expect("the name is free again");
    assert_eq!(read(&*file, 0, 100), b"still here");
    device.remove("new").expect("remove");
}

fn paths_stay_inside(device: &dyn Device) {
    for path in ["../x", "/x", "a/../../x", "./x", "a//b", "x/", "a\\b", "a\0b"] {
        assert_eq!(kind(device.create(path)), io::ErrorKind::InvalidInput, "{path:?}");
        assert_eq!(kind(device.open(path)), io::ErrorKind::InvalidInput, "{path:?}");
        assert_eq!(kind(device.remove_dir(path)), io::ErrorKind::InvalidInput, "{path:?}");
    }
}

fn read(file: &dyn super::File, position: u64, len: usize) -> Vec<u8> {
    file.read_at(position, len).expect("read").to_vec()
}

fn list(device: &dyn Device, dir: &str) -> Vec<Entry> {
    device.list(dir).expect("list")
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.expect_err("an error").kind()
}
