//! Key files: a repository's secrets, wrapped for those who may have them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use bech32::{Bech32, Hrp};
use bytes::{Bytes, BytesMut};
use futures::stream::TryStreamExt;
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use super::encryption::{Keys, Seal, decapsulate, decrypt, encapsulate, encrypt, generation_id, public_key, token};
use super::manifest::{
    Argon2Cost, Digest, FORMAT, GenerationSecrets, KeyAccess, KeyLock, KeyManifest, Kind, Manifest, SecretBytes,
    SecretsManifest,
};
use super::objects::ObjectStore;
use super::repository::{KEYS, Place, Repository, RepositoryError};
use crate::{Error, ErrorKind, Result, Timestamp};

/// The largest key file that is read.
const MAX_KEY_BYTES: u64 = 64 << 10;
/// How many key files are looked at: trying a passphrase takes a tenth of a second each.
const MAX_KEYS: usize = 256;

const KEY_CONTEXT: &str = "ottla repository key";

/// What opens an encrypted repository.
#[derive(Clone)]
pub enum Secret {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// The secret of an age recipient.
    Identity(AgeIdentity),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase",
            Self::Identity(_) => "Identity",
        })
    }
}

/// Whom a key file is for.
#[derive(Clone, Debug)]
pub enum Lock {
    /// Whoever knows a passphrase.
    Passphrase(Secret, Argon2Cost),
    /// Whoever has an age recipient's identity.
    Recipient(AgeRecipient),
}

impl Lock {
    /// Whoever knows `passphrase`, at the usual cost.
    pub fn passphrase(passphrase: impl Into<String>) -> Self {
        Self::Passphrase(Secret::Passphrase(Zeroizing::new(passphrase.into())), Argon2Cost::default())
    }
}

/// An age recipient: an X25519 public key, noted as `age1…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AgeRecipient([u8; 32]);

/// An age identity: an X25519 secret, noted as `AGE-SECRET-KEY-1…`.
#[derive(Clone)]
pub struct AgeIdentity(Zeroizing<[u8; 32]>);

impl fmt::Debug for AgeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgeIdentity({})", self.recipient())
    }
}

impl AgeIdentity {
    /// Whom it is the secret of.
    pub fn recipient(&self) -> AgeRecipient {
        AgeRecipient(public_key(&self.0))
    }

    /// The identities in the text of a file as `age-keygen` writes it: one a line; empty lines and those that begin with `#` are
    /// passed over.
    ///
    /// # Errors
    /// `Invalid` if a line is no identity, or there is none.
    pub fn parse_file(text: &str) -> Result<Vec<Self>> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let identities = lines.map(str::parse).collect::<Result<Vec<Self>>>()?;
        if identities.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "there is no identity in the file, age-keygen makes one"));
        }
        Ok(identities)
    }
}

impl FromStr for AgeRecipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        unbech(text, "age").map(|key| Self(*key)).ok_or_else(|| {
            let message = format!("is no age recipient, which is age1 and 58 more letters and digits given={text:.80}");
            Error::new(ErrorKind::Invalid, message)
        })
    }
}

impl fmt::Display for AgeRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bech32::encode::<Bech32>(Hrp::parse_unchecked("age"), &self.0).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for AgeIdentity {
    type Err = Error;

    /// The message never has the text: it may be a secret with a slip of the pen.
    fn from_str(text: &str) -> Result<Self> {
        unbech(text, "age-secret-key-").map(Self).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "is no age identity, which is AGE-SECRET-KEY-1 and 58 more letters and digits",
            )
        })
    }
}

fn unbech(text: &str, prefix: &str) -> Option<Zeroizing<[u8; 32]>> {
    // Hrp compares without case; the checksum is Bech32's, not Bech32m's.
    let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32>(text).ok()?;
    if checked.hrp() != Hrp::parse(prefix).ok()? {
        return None;
    }
    let mut bytes: Vec<u8> = checked.byte_iter().collect();
    let key = <[u8; 32]>::try_from(&bytes[..]).ok().map(Zeroizing::new);
    bytes.zeroize();
    key
}

/// A key file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// Its name: the hash of its bytes.
    pub name: Digest,
    /// What it says openly.
    pub manifest: KeyManifest,
    wrapped: Bytes,
}

impl KeyFile {
    /// The first digits of its name, for people.
    pub fn short(&self) -> String {
        self.name.to_string()[..8].to_owned()
    }

    /// What it says and wraps, and its bytes.
    fn read(name: Digest, bytes: &Bytes) -> Result<Self, String> {
        if Digest::of([&bytes[..]]) != name {
            return Err("checksum differs".to_owned());
        }
        let (manifest, rest) = KeyManifest::decode_first(bytes).map_err(|error| error.to_string())?;
        Ok(Self { name, manifest, wrapped: bytes.slice(bytes.len() - rest..) })
    }

    /// Wraps `secrets`.
    fn wrap(
        repository: Uuid,
        mut manifest: KeyManifest,
        lock: &Lock,
        secrets: &SecretsManifest,
    ) -> Result<(Digest, Vec<Bytes>)> {
        let mut secrets = secrets.clone();
        if manifest.access == KeyAccess::Write {
            secrets.generations.iter_mut().for_each(|generation| generation.read_key = None);
        }
        match lock {
            Lock::Passphrase(_, cost) => (manifest.lock, manifest.argon2) = (KeyLock::Passphrase, Some(*cost)),
            Lock::Recipient(to) => (manifest.lock, manifest.recipient) = (KeyLock::Age, Some(to.to_string())),
        }
        let clear = manifest.encode();
        let associated = [repository.as_bytes(), &clear[..]].concat();
        let mut plain = Zeroizing::new(secrets.encode());
        let mut wrapped = Vec::new();
        let key = match lock {
            Lock::Passphrase(secret, cost) => stretch(secret, cost)?,
            Lock::Recipient(to) => {
                let newest = secrets.newest();
                let tokens = blake3::derive_key("ottla repository tokens", &*newest.write_key.0);
                let (token, key) = encapsulate(KEY_CONTEXT, &token(&tokens, &associated, &plain), &to.0);
                wrapped.extend_from_slice(&token);
                key
            }
        };
        let tag = encrypt(&key, &associated, &mut plain);
        wrapped.extend_from_slice(&plain);
        wrapped.extend_from_slice(&tag);
        let name = Digest::of([&clear[..], &wrapped[..]]);
        Ok((name, vec![Bytes::from(clear), Bytes::from(wrapped)]))
    }

    /// The secrets, if `secret` opens it.
    fn unwrap_with(&self, repository: Uuid, clear: &[u8], secret: &Secret) -> Result<Option<SecretsManifest>> {
        let mut wrapped = &self.wrapped[..];
        let key = match (secret, &self.manifest.argon2, &self.manifest.recipient) {
            (Secret::Passphrase(_), Some(cost), _) => stretch(secret, cost)?,
            (Secret::Identity(identity), _, Some(recipient)) => {
                let own = identity.recipient();
                let Some((token, rest)) = wrapped.split_first_chunk::<32>() else { return Ok(None) };
                if own.to_string() != *recipient {
                    return Ok(None);
                }
                wrapped = rest;
                decapsulate(KEY_CONTEXT, token, &identity.0, &own.0)
            }
            _ => return Ok(None),
        };
        let associated = [repository.as_bytes(), clear].concat();
        let mut plain = BytesMut::from(wrapped);
        if !decrypt(&key, &associated, &mut plain) {
            return Ok(None);
        }
        let secrets = SecretsManifest::decode(&plain);
        plain.zeroize();
        secrets
            .map(Some)
            .map_err(|error| Error::new(ErrorKind::Corrupt, format!("key file {error} key={}", self.short())))
    }
}

/// The key that a passphrase stands for.
fn stretch(secret: &Secret, cost: &Argon2Cost) -> Result<Zeroizing<[u8; 32]>> {
    let invalid = |error: argon2::Error| Error::new(ErrorKind::Invalid, format!("argon2 cannot be computed: {error}"));
    let Secret::Passphrase(passphrase) = secret else {
        return Err(Error::new(ErrorKind::Invalid, "a key file for a passphrase takes a passphrase"));
    };
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(invalid)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), &cost.salt, &mut *key)
        .map_err(invalid)?;
    Ok(key)
}

/// A new generation of keys, drawn from 32 bytes that nobody can guess and nobody else has.
fn generation(seed: &[u8; 32], now: Timestamp) -> GenerationSecrets {
    let read_key = Zeroizing::new(blake3::derive_key("ottla repository new read key", seed));
    GenerationSecrets {
        created: now,
        write_key: SecretBytes(Zeroizing::new(blake3::derive_key("ottla repository new write key", seed))),
        public_key: public_key(&read_key),
        read_key: Some(SecretBytes(read_key)),
    }
}

/// `cost` with a salt of its own, drawn from `seed`.
fn salted(lock: &Lock, seed: &[u8; 32]) -> Lock {
    match lock {
        Lock::Passphrase(secret, cost) => {
            let mut salt = [0; 16];
            salt.copy_from_slice(&blake3::derive_key("ottla repository new salt", seed)[..16]);
            Lock::Passphrase(secret.clone(), Argon2Cost { salt, ..*cost })
        }
        Lock::Recipient(recipient) => Lock::Recipient(*recipient),
    }
}

/// A first generation for a repository that is about to be: its secrets, and the key file that wraps them.
pub(super) async fn put_first_key(
    store: &dyn ObjectStore,
    repository: Uuid,
    now: Timestamp,
    lock: &Lock,
    seed: &[u8; 32],
) -> Result<OpenKeys> {
    let generations = vec![generation(seed, now)];
    let secrets = SecretsManifest { format: FORMAT, kind: Kind::Secrets, generations };
    let manifest = KeyManifest::new(now, "", KeyAccess::Full);
    let (name, parts) = KeyFile::wrap(repository, manifest, &salted(lock, seed), &secrets)?;
    store.put_if_absent(&path(&name), parts).await?;
    Ok(OpenKeys { repository, opened_by: name, secrets: Arc::new(secrets) })
}

/// The secrets of a repository that is open.
#[derive(Clone)]
pub(super) struct OpenKeys {
    repository: Uuid,
    opened_by: Digest,
    secrets: Arc<SecretsManifest>,
}

impl fmt::Debug for OpenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenKeys").field("opened_by", &self.opened_by).finish_non_exhaustive()
    }
}

impl OpenKeys {
    pub(super) fn seal(&self) -> Seal {
        Seal::Keyed(Arc::new(Keys::new(self.repository, &self.secrets.generations)))
    }
}

fn path(name: &Digest) -> String {
    format!("{KEYS}{name}")
}

/// The key files that are there and whole, with their bytes; the paths of those that are damaged, and why.
type Found = (Vec<(KeyFile, Bytes)>, Vec<(String, String)>);

async fn find_key_files(store: &dyn ObjectStore) -> Result<Found> {
    let listed: Vec<_> = store.list(KEYS).try_collect().await?;
    let mut names: Vec<Digest> =
        listed.iter().filter_map(|object| Digest::from_hex(object.path.strip_prefix(KEYS)?)).collect();
    names.sort_unstable();
    names.truncate(MAX_KEYS);
    let (mut files, mut damaged) = (Vec::with_capacity(names.len()), Vec::new());
    for name in names {
        let bytes = match store.get(&path(&name), 0..MAX_KEY_BYTES).await {
            // It was removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        match KeyFile::read(name, &bytes) {
            Ok(file) => files.push((file, bytes)),
            Err(reason) => damaged.push((path(&name), reason)),
        }
    }
    Ok((files, damaged))
}

/// The key files that are there and whole. One that is damaged is left out, and said.
async fn key_files(store: &dyn ObjectStore) -> Result<Vec<(KeyFile, Bytes)>> {
    let (files, damaged) = find_key_files(store).await?;
    for (path, reason) in damaged {
        log::warn!("leaving a key file out: {reason} path={path}");
    }
    Ok(files)
}

/// Opens the key files with `secrets`: what the one with the newest generation has.
pub(super) async fn unlock(store: &dyn ObjectStore, repository: Uuid, secrets: &[Secret]) -> Result<OpenKeys> {
    let (files, damaged) = find_key_files(store).await?;
    let mut best: Option<OpenKeys> = None;
    for (file, bytes) in &files {
        let clear = &bytes[..bytes.len() - file.wrapped.len()];
        for secret in secrets {
            let Some(found) = file.unwrap_with(repository, clear, secret)? else { continue };
            // Of the same generations, the one that can do more.
            let rank = |keys: &SecretsManifest| (keys.generations.len(), keys.newest().read_key.is_some());
            if best.as_ref().is_none_or(|best| rank(&found) > rank(&best.secrets)) {
                best = Some(OpenKeys { repository, opened_by: file.name, secrets: Arc::new(found) });
            }
        }
    }
    match (best, damaged.into_iter().next()) {
        (Some(best), _) => Ok(best),
        (None, None) => Err(RepositoryError::WrongKey { repository: store.place(), keys: files.len() }.into()),
        // It may be the one.
        (None, Some((path, reason))) => {
            Err(RepositoryError::Damaged { place: Place::default(), path, reason: format!("key file {reason}") }.into())
        }
    }
}

impl Repository {
    fn open_keys(&self) -> Result<&OpenKeys> {
        self.keys().ok_or_else(|| RepositoryError::NotEncrypted { repository: self.place() }.into())
    }

    /// Whether objects can be read with the key that it was opened with; a plain repository's can.
    pub fn can_read(&self) -> bool {
        self.keys().is_none_or(|keys| keys.secrets.generations.iter().any(|known| known.read_key.is_some()))
    }

    /// The key file that it was opened with; `None` for a plain repository.
    pub fn opened_by(&self) -> Option<Digest> {
        self.keys().map(|keys| keys.opened_by)
    }

    /// The ids of the generations of keys, oldest first, and when each was made. None in a plain repository.
    pub fn generations(&self) -> Vec<(String, Timestamp)> {
        let generations = self.keys().into_iter().flat_map(|keys| &keys.secrets.generations);
        let hex = |id: [u8; 8]| id.iter().map(|byte| format!("{byte:02x}")).collect();
        generations.map(|known| (hex(generation_id(&known.public_key)), known.created)).collect()
    }

    /// The paths of key files that are damaged, and why.
    pub(super) async fn damaged_keys(&self) -> Result<Vec<(String, String)>> {
        Ok(if self.keys().is_some() { find_key_files(self.store()).await?.1 } else { Vec::new() })
    }

    /// The key files, oldest first. One that is damaged is left out with a warning.
    ///
    /// # Errors
    /// The store's.
    pub async fn key_files(&self) -> Result<Vec<KeyFile>> {
        let files = key_files(self.store()).await?;
        let mut files: Vec<KeyFile> = files.into_iter().map(|(file, _)| file).collect();
        files.sort_by_key(|file| (file.manifest.created, file.name));
        Ok(files)
    }

    /// Lets another in: puts a key file for `lock`, of which `label` says whose it is. `seed` is 32 bytes that nobody can guess.
    ///
    /// # Errors
    /// `Invalid` if the repository is plain; `Denied` if a key that only writes is to make one that reads; the store's.
    pub async fn add_key(
        &self,
        lock: &Lock,
        access: KeyAccess,
        label: &str,
        now: Timestamp,
        seed: &[u8; 32],
    ) -> Result<KeyFile> {
        let keys = self.open_keys()?;
        if access == KeyAccess::Full {
            self.check_reads()?;
        }
        let manifest = KeyManifest::new(now, label, access);
        self.put_key(keys, manifest, lock, &keys.secrets, seed).await
    }

    async fn put_key(
        &self,
        keys: &OpenKeys,
        manifest: KeyManifest,
        lock: &Lock,
        secrets: &SecretsManifest,
        seed: &[u8; 32],
    ) -> Result<KeyFile> {
        let (name, parts) = KeyFile::wrap(keys.repository, manifest, &salted(lock, seed), secrets)?;
        let bytes = Bytes::from(parts.concat());
        self.store().put_if_absent(&path(&name), parts).await?;
        KeyFile::read(name, &bytes).map_err(|reason| Error::new(ErrorKind::Internal, reason))
    }

    /// The key file whose name begins with `name`.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Invalid` if there are several; the store's.
    pub async fn find_key(&self, name: &str) -> Result<KeyFile> {
        let files = self.key_files().await?;
        let mut matching = files.into_iter().filter(|file| !name.is_empty() && file.name.to_string().starts_with(name));
        match (matching.next(), matching.next()) {
            (Some(file), None) => Ok(file),
            (None, _) => {
                Err(Error::new(ErrorKind::NotFound, format!("no such key, `ottla key list` has them key={name:.64}")))
            }
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("more than one key begins so, give more digits key={name:.64}"),
            )),
        }
    }

    /// Removes a key file. Who had it keeps what is known of the secrets: [`rotate`](Self::rotate) shuts them out of what is
    /// written from then on.
    ///
    /// # Errors
    /// `Invalid` if it is the last that reads; the store's.
    pub async fn remove_key(&self, key: &KeyFile) -> Result<()> {
        let files = self.key_files().await?;
        let is_last = !files.iter().any(|file| file.name != key.name && file.manifest.access == KeyAccess::Full);
        if is_last {
            let message =
                format!("the last key that reads the repository stays, add another first key={}", key.short());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.store().delete(&path(&key.name)).await
    }

    /// Begins a new generation of keys, with which everything is sealed from now on; what is there stays as it is and can be
    /// read. Key files are made anew for the passphrases and identities among `secrets`, and for the `recipients`, each with
    /// what it may do: a key file for a recipient can be made by anybody who writes to the store, so it is not believed.
    ///
    /// # Errors
    /// `Invalid`, before anything is changed, if there is a key file for another passphrase, which cannot be made anew without
    /// knowing it, or for another recipient; `Denied` with a key that only writes; the store's. Run again, it does what is left.
    pub async fn rotate(
        &self,
        secrets: &[Secret],
        recipients: &[(AgeRecipient, KeyAccess)],
        now: Timestamp,
        seed: &[u8; 32],
    ) -> Result<Self> {
        let keys = self.open_keys()?;
        self.check_reads()?;
        let files = key_files(self.store()).await?;
        let mut locks = Vec::with_capacity(files.len());
        let (mut others, mut strangers) = (Vec::new(), Vec::new());
        let is_own = |recipient: &AgeRecipient| {
            secrets
                .iter()
                .any(|secret| matches!(secret, Secret::Identity(identity) if identity.recipient() == *recipient))
        };
        for (file, bytes) in &files {
            let clear = &bytes[..bytes.len() - file.wrapped.len()];
            let lock = match (&file.manifest.recipient, &file.manifest.argon2) {
                (Some(recipient), _) => {
                    let recipient: AgeRecipient = recipient.parse()?;
                    if !is_own(&recipient) && !recipients.contains(&(recipient, file.manifest.access)) {
                        strangers.push(format!("{} ({}, {recipient})", file.short(), file.manifest.access));
                        continue;
                    }
                    Some(Lock::Recipient(recipient))
                }
                (None, Some(cost)) => {
                    let mut own = None;
                    for secret in secrets.iter().filter(|secret| matches!(secret, Secret::Passphrase(_))) {
                        if file.unwrap_with(keys.repository, clear, secret)?.is_some() {
                            own = Some(Lock::Passphrase(secret.clone(), *cost));
                        }
                    }
                    own
                }
                (None, None) => None,
            };
            match lock {
                Some(lock) => locks.push((file, lock)),
                None => others.push(file.short()),
            }
        }
        if !others.is_empty() {
            let message = format!(
                "a key cannot be rotated without its passphrase, remove it and add it again afterwards keys={}",
                others.join(",")
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if !strangers.is_empty() {
            let message = format!(
                "whoever writes to the store can put keys of recipients there, so say who is to go on, by --recipient (full) or \
                 --write-recipient, or remove the key keys={}",
                strangers.join(", ")
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let mut rotated = (*keys.secrets).clone();
        rotated.generations.push(generation(seed, now));
        let mut fresh: Vec<(Digest, Digest)> = Vec::with_capacity(locks.len());
        // Our own first: should this be interrupted, we have what others have been given.
        let mut order: Vec<usize> = (0..locks.len()).collect();
        order.sort_by_key(|index| locks[*index].0.name != keys.opened_by);
        for (place, &index) in order.iter().enumerate() {
            let (file, lock) = &locks[index];
            let of = |file: &KeyFile| KeyManifest { argon2: None, ..file.manifest.clone() };
            // A rotation that was interrupted has left some twice.
            if let Some(before) = order[..place].iter().position(|other| of(locks[*other].0) == of(file)) {
                fresh.push((file.name, fresh[before].1));
                continue;
            }
            let salt = blake3::derive_key("ottla repository new key file", &[&seed[..], &index.to_be_bytes()].concat());
            let manifest = KeyManifest::new(file.manifest.created, &file.manifest.label, file.manifest.access);
            let made = self.put_key(keys, manifest, lock, &rotated, &salt).await?;
            fresh.push((file.name, made.name));
        }
        // Only now, when all have new ones.
        for (old, _) in &fresh {
            self.store().delete(&path(old)).await?;
        }
        let opened_by = fresh.iter().find(|(old, _)| *old == keys.opened_by).map_or(keys.opened_by, |(_, new)| *new);
        let keys = OpenKeys { repository: keys.repository, opened_by, secrets: Arc::new(rotated) };
        Ok(self.with_keys(keys))
    }

    fn check_reads(&self) -> Result<()> {
        if self.can_read() {
            return Ok(());
        }
        Err(RepositoryError::WriteOnly { repository: self.place() }.into())
    }
}
