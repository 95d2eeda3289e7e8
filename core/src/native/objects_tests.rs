//! Objects as files: the suite, and what only files can do.

use std::path::PathBuf;

use bytes::Bytes;
use futures::executor::block_on;

use super::objects::FileObjects;
use crate::ErrorKind;
use crate::backup::objects::{ObjectStore, Put, conformance};

/// A directory of this test's own that is removed afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ottla-objects-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_conform_with_and_without_a_runtime() {
    let scratch = Scratch::new("conform");
    let objects = FileObjects::new(&scratch.0);
    block_on(conformance(&objects)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(conformance(&objects)).unwrap();
    assert_eq!(std::fs::read_dir(scratch.0.join(".unfinished")).unwrap().count(), 0);
}

#[test]
fn an_object_of_many_parts_is_written_whole() {
    let scratch = Scratch::new("parts");
    let objects = FileObjects::new(&scratch.0);
    let parts: Vec<Bytes> = (0..5_000_u32).map(|n| Bytes::from(n.to_be_bytes().repeat((n % 7) as usize))).collect();
    let expected: Vec<u8> = parts.iter().flatten().copied().collect();
    assert_eq!(block_on(objects.put_if_absent("a/b/c", parts)).unwrap(), Put::Created);
    assert_eq!(block_on(objects.get("a/b/c", 0..u64::MAX)).unwrap(), expected);
}

#[test]
fn what_was_not_finished_is_no_object() {
    let scratch = Scratch::new("unfinished");
    let objects = FileObjects::new(&scratch.0);
    std::fs::create_dir_all(scratch.0.join(".unfinished")).unwrap();
    // As a process of our id left it.
    std::fs::write(scratch.0.join(format!(".unfinished/{}-1", std::process::id())), "torn").unwrap();
    let put = block_on(objects.put_if_absent("one", vec![Bytes::from_static(b"whole")]));
    assert_eq!(put.unwrap(), Put::Created);
    assert_eq!(block_on(objects.get("one", 0..100)).unwrap(), "whole");
    let listed: Vec<_> = block_on(futures::StreamExt::collect::<Vec<_>>(objects.list("")));
    assert_eq!(listed.len(), 1);
}

#[test]
fn a_directory_that_is_a_file_says_so() {
    let scratch = Scratch::new("file");
    std::fs::write(&scratch.0, "a file").unwrap();
    let objects = FileObjects::new(&scratch.0);
    let error = block_on(objects.put_if_absent("one", vec![Bytes::new()])).unwrap_err();
    assert!(error.to_string().contains("ottla-objects-"), "{error}");
    assert_ne!(error.kind(), ErrorKind::Internal);
    std::fs::remove_file(&scratch.0).unwrap();
}
