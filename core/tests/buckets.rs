//! Buckets as repositories, against a real server: `OTTLA_TEST_BUCKET=s3://BUCKET` names one, empty, whose endpoint and credentials
//! are in the environment; `scripts/s3 run` does.
#![cfg(feature = "native")]
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures::future::try_join_all;
use ottla::ErrorKind;
use ottla::backup::objects::{ObjectStore, Put, conformance};
use ottla::native::Runtime;
use ottla::native::buckets::BucketObjects;

/// A prefix of this test's own; `None`, said, if there is no bucket.
fn bucket(test: &str) -> Option<(Runtime, BucketObjects)> {
    let Ok(bucket) = std::env::var("OTTLA_TEST_BUCKET") else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "with CI=true nothing may be skipped: no OTTLA_TEST_BUCKET"
        );
        eprintln!("not tested against a bucket: OTTLA_TEST_BUCKET=s3://BUCKET names none");
        return None;
    };
    let runtime = Runtime::new().unwrap();
    let objects = BucketObjects::open(&format!("{bucket}/{test}")).unwrap();
    Some((runtime, objects))
}

#[test]
fn a_bucket_conforms() {
    let Some((runtime, objects)) = bucket("conforms") else { return };
    runtime.block_on(async move { conformance(&objects).await.unwrap() });
}

#[test]
fn of_many_that_put_one_object_one_creates_it() {
    let Some((runtime, objects)) = bucket("race") else { return };
    runtime.block_on(async {
        let puts = (0..16_u8).map(|n| objects.put_if_absent("one", vec![Bytes::from(vec![n; 1_000 + n as usize])]));
        let puts = try_join_all(puts).await.unwrap();
        assert_eq!(puts.iter().filter(|put| **put == Put::Created).count(), 1);
        let winner = puts.iter().position(|put| *put == Put::Created).unwrap();
        let there = objects.get("one", 0..u64::MAX).await.unwrap();
        assert_eq!(there, vec![winner as u8; 1_000 + winner]);
        objects.delete("one").await.unwrap();
    });
}

#[test]
fn an_object_of_many_parts_comes_back_whole() {
    let Some((runtime, objects)) = bucket("parts") else { return };
    runtime.block_on(async {
        let parts: Vec<Bytes> = (0..5_000_u32).map(|n| Bytes::from(n.to_be_bytes().repeat(1_000))).collect();
        let expected = parts.concat();
        assert_eq!(objects.put_if_absent("large", parts).await.unwrap(), Put::Created);
        assert_eq!(objects.size("large").await.unwrap(), Some(expected.len() as u64));
        assert!(objects.get("large", 0..u64::MAX).await.unwrap() == expected);
        let middle = objects.get("large", 7_000_000..7_000_100).await.unwrap();
        assert_eq!(middle, expected[7_000_000..7_000_100]);
        objects.delete("large").await.unwrap();
    });
}

#[test]
fn more_objects_than_a_page_of_a_list_holds_are_listed() {
    let Some((runtime, objects)) = bucket("many") else { return };
    runtime.block_on(async {
        let paths: Vec<String> = (0..1_100).map(|n| format!("objects/{:02x}/{n:064}", n % 7)).collect();
        for some in paths.chunks(32) {
            let puts = some.iter().map(|path| objects.put_if_absent(path, vec![Bytes::from_static(b"x")]));
            try_join_all(puts).await.unwrap();
        }
        let listed: Vec<_> = futures::TryStreamExt::try_collect(objects.list("objects/")).await.unwrap();
        let mut listed: Vec<String> =
            listed.into_iter().map(|found: ottla::backup::objects::Listed| found.path).collect();
        let mut paths = paths;
        listed.sort();
        paths.sort();
        assert_eq!(listed, paths);
        for some in paths.chunks(32) {
            try_join_all(some.iter().map(|path| objects.delete(path))).await.unwrap();
        }
    });
}

#[test]
fn what_is_no_bucket_says_so() {
    for (url, reason) in
        [("s3://", "missing"), ("ftp://bucket/a", "a repository is"), ("s3://bucket/../up", "not allowed")]
    {
        let error = BucketObjects::open(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let Some((runtime, _)) = bucket("none") else { return };
    runtime.block_on(async {
        let absent = BucketObjects::open("s3://ottla-absent/a").unwrap();
        let error = absent.put_if_absent("one", vec![Bytes::new()]).await.unwrap_err();
        assert!(error.to_string().contains("s3://ottla-absent/a"), "{error}");
    });
}
