//! Where a repository's objects are: a small trait, objects in memory, and the suite that every store passes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::{Error, ErrorKind, Result};

/// A store of immutable objects under paths: a directory, a bucket, memory.
///
/// Paths are relative, their parts separated by `/`; a part consists of ASCII letters, digits, `-`, `_` and `.`, and does not
/// begin with a dot. An object is there whole or not at all, and what a call has put is there for good when the call returns.
/// Every call may be repeated. Errors are of the kinds `NotFound`, `Denied`, `Full`, `Retriable` and `Invalid`, and name the
/// path; `Denied` is never said as `NotFound`.
pub trait ObjectStore: Send + Sync + Debug {
    /// Where it is, for people: a directory, a URL.
    fn place(&self) -> String;

    /// Puts the bytes of `parts`, one after the other, under `path` unless an object is there, in one step.
    ///
    /// Of several that put under one path, one creates it and the others find it present, whatever its bytes are.
    fn put_if_absent<'a>(&'a self, path: &'a str, parts: Vec<Bytes>) -> BoxFuture<'a, Result<Put>>;

    /// The bytes of `range`, or from its start to the object's end if that comes first.
    fn get<'a>(&'a self, path: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>>;

    /// The object's size; `None` if it is not there.
    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<u64>>>;

    /// The objects whose paths begin with `prefix`, which is empty or ends with `/`; in no order that could be relied on.
    /// An object that is put or deleted meanwhile may be listed or not.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Listed>>;

    /// Removes the object, if it is there.
    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// What [`ObjectStore::put_if_absent`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Put {
    /// The object was not there, and is now.
    Created,
    /// An object was there, and is as it was.
    Present,
}

/// An object that [`ObjectStore::list`] found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listed {
    /// Its path.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Objects in memory, with faults on request. Clones share the objects.
#[derive(Clone, Debug, Default)]
pub struct MemoryObjects {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, Bytes>,
    /// How many calls there were.
    calls: u64,
    fault: Option<(u64, Fault)>,
    /// The paths that a stale list knows of.
    listed: BTreeSet<String>,
}

/// What a [`MemoryObjects`] does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The call fails and has done nothing; so does every later one, as if the process or the network were gone.
    Gone,
    /// The call fails once and has done nothing.
    Refused,
    /// The call fails once, although it was done: its answer is lost.
    AnswerLost,
    /// The call is answered by no permission, once, and has done nothing.
    Forbidden,
    /// If the call is a list, it does not know of what was put since this fault was set.
    Stale,
}

impl MemoryObjects {
    /// Makes call number `call`, counted from 0 since the store was made, go wrong.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        let mut inner = self.lock();
        inner.listed = inner.objects.keys().cloned().collect();
        inner.fault = Some((call, fault));
    }

    /// Makes another call go wrong, counted likewise.
    pub fn move_fault(&self, call: u64) {
        if let Some((at, _)) = &mut self.lock().fault {
            *at = call;
        }
    }

    /// Makes all go well again.
    pub fn heal(&self) {
        self.lock().fault = None;
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The paths and bytes of all objects.
    pub fn contents(&self) -> BTreeMap<String, Bytes> {
        self.lock().objects.clone()
    }

    /// Puts `bytes` under `path` whatever is there: damage on request.
    pub fn overwrite(&self, path: &str, bytes: Bytes) {
        self.lock().objects.insert(path.to_owned(), bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `act` unless this call is to go wrong.
    fn call<T>(&self, path: &str, act: impl FnOnce(&mut BTreeMap<String, Bytes>) -> Result<T>) -> Result<T> {
        let mut inner = self.lock();
        let call = inner.calls;
        inner.calls += 1;
        let fault = inner.fault.and_then(|(at, fault)| match fault {
            Fault::Gone => (call >= at).then_some(fault),
            Fault::Refused | Fault::AnswerLost | Fault::Forbidden => (call == at).then_some(fault),
            Fault::Stale => None,
        });
        let failure = || Error::new(ErrorKind::Retriable, format!("object store does not answer path={path}"));
        match fault {
            Some(Fault::Gone | Fault::Refused) => Err(failure()),
            Some(Fault::AnswerLost) => act(&mut inner.objects).and_then(|_| Err(failure())),
            Some(Fault::Forbidden) => {
                Err(Error::new(ErrorKind::Denied, format!("object store refuses access path={path}")))
            }
            Some(Fault::Stale) | None => act(&mut inner.objects),
        }
    }
}

impl ObjectStore for MemoryObjects {
    fn place(&self) -> String {
        "memory:".to_owned()
    }

    fn put_if_absent<'a>(&'a self, path: &'a str, parts: Vec<Bytes>) -> BoxFuture<'a, Result<Put>> {
        async move {
            check_path(path)?;
            self.call(path, |objects| {
                if objects.contains_key(path) {
                    return Ok(Put::Present);
                }
                let mut bytes = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                parts.iter().for_each(|part| bytes.extend_from_slice(part));
                objects.insert(path.to_owned(), bytes.freeze());
                Ok(Put::Created)
            })
        }
        .boxed()
    }

    fn get<'a>(&'a self, path: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        async move {
            self.call(path, |objects| {
                let object = objects.get(path).ok_or_else(|| not_found(path))?;
                let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(object.len());
                let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(end);
                Ok(object.slice(start..end))
            })
        }
        .boxed()
    }

    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        async move { self.call(path, |objects| Ok(objects.get(path).map(|object| object.len() as u64))) }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Listed>> {
        let known = {
            let inner = self.lock();
            let is_stale = inner.fault.is_some_and(|(at, fault)| fault == Fault::Stale && inner.calls == at);
            is_stale.then(|| inner.listed.clone())
        };
        let listed = self.call(prefix, |objects| {
            Ok(objects
                .range(prefix.to_owned()..)
                .take_while(|(path, _)| path.starts_with(prefix))
                .filter(|(path, _)| known.as_ref().is_none_or(|known| known.contains(*path)))
                .map(|(path, bytes)| Ok(Listed { path: path.clone(), bytes: bytes.len() as u64 }))
                .collect::<Vec<_>>())
        });
        match listed {
            Ok(listed) => stream::iter(listed).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.call(path, |objects| {
                objects.remove(path);
                Ok(())
            })
        }
        .boxed()
    }
}

/// The error for an object that is not there.
pub(crate) fn not_found(path: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("object is not there path={path}"))
}

/// Whether `path` is one that every store takes, and that leaves no directory.
///
/// # Errors
/// `Invalid` if it is not.
pub fn check_path(path: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed);
    if path.len() <= 512 && path.split('/').all(is_part) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("path of an object is not allowed path={path:?}")))
}

/// The suite that every [`ObjectStore`] passes. `store` is empty before and after.
///
/// # Errors
/// Whatever the store fails with.
///
/// # Panics
/// If the store does what it must not.
pub async fn conformance(store: &dyn ObjectStore) -> Result<()> {
    let list = |prefix: &'static str| async move {
        let mut listed: Vec<Listed> = store.list(prefix).try_collect().await?;
        listed.sort();
        Ok::<_, Error>(listed.into_iter().map(|object| (object.path, object.bytes)).collect::<Vec<_>>())
    };
    let bytes = |text: &'static str| vec![Bytes::from_static(text.as_bytes())];
    assert_eq!(list("").await?, []);
    assert_eq!(list("objects/").await?, []);
    assert_eq!(store.size("objects/a").await?, None);
    assert_eq!(store.get("objects/a", 0..10).await.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    store.delete("objects/a").await?;

    let parts = vec![Bytes::from_static(b"one "), Bytes::new(), Bytes::from_static(b"object")];
    assert_eq!(store.put_if_absent("objects/ab/a", parts).await?, Put::Created);
    assert_eq!(store.put_if_absent("objects/ab/a", bytes("another")).await?, Put::Present);
    assert_eq!(store.put_if_absent("objects/empty", Vec::new()).await?, Put::Created);
    assert_eq!(store.put_if_absent("config", bytes("x")).await?, Put::Created);

    assert_eq!(store.size("objects/ab/a").await?, Some(10));
    assert_eq!(store.get("objects/ab/a", 0..10).await?, "one object");
    assert_eq!(store.get("objects/ab/a", 4..7).await?, "obj");
    assert_eq!(store.get("objects/ab/a", 4..u64::MAX).await?, "object");
    assert_eq!(store.get("objects/ab/a", 20..30).await?, "");
    assert_eq!(store.get("objects/empty", 0..1).await?, "");
    assert_eq!(store.get("objects/ab", 0..1).await.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    assert_eq!(store.size("objects/ab").await?, None);

    let expected = [("objects/ab/a".to_owned(), 10), ("objects/empty".to_owned(), 0)];
    assert_eq!(list("objects/").await?, expected);
    assert_eq!(list("objects/ab/").await?, expected[..1]);
    assert_eq!(list("object/").await?, []);
    assert_eq!(list("").await?.len(), 3);

    let both = [bytes("first"), bytes("other")].map(|parts| store.put_if_absent("race", parts));
    let mut puts = futures::future::try_join_all(both).await?;
    puts.sort_by_key(|put| *put == Put::Present);
    assert_eq!(puts, [Put::Created, Put::Present]);

    for path in ["../up", "/root", "a//b", "a/../b", "", "a/", ".hidden", "a\\b", "a b", "ü"] {
        let put = store.put_if_absent(path, bytes("x")).await;
        assert_eq!(put.map_err(|e| e.kind()), Err(ErrorKind::Invalid), "{path:?}");
    }
    for path in ["objects/ab/a", "objects/empty", "config", "race"] {
        store.delete(path).await?;
        assert_eq!(store.size(path).await?, None);
    }
    assert_eq!(list("").await?, []);
    Ok(())
}
