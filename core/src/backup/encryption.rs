//! Sealing: how what is stored is named and, in an encrypted repository, hidden.
//!
//! Everything that seals is drawn from what is sealed: the same object or manifest becomes the same bytes, and so has the
//! same name, in plain and in encrypted repositories alike. `docs/formats.md` specifies each byte.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use uuid::Uuid;
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};
use zeroize::Zeroizing;

use super::manifest::{Digest, GenerationSecrets};
use super::repository::{MANIFESTS, MARKS, OBJECTS, PENDING, SNAPSHOTS};

/// How much longer than its plaintext a sealed thing is, in bytes: form, generation, token, tag.
pub(super) const OVERHEAD: usize = HEADER + TAG;
const HEADER: usize = 1 + 8 + 32;
const TAG: usize = 16;
/// The shortest plaintext of a manifest.
const MIN_PADDED: usize = 256;

/// Where a sealed thing is, which is sealed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shelf {
    Objects,
    Manifests,
    Snapshots,
    Pending,
    Marks,
}

impl Shelf {
    /// The place's name, as it is in paths but for the slash.
    fn name(self) -> &'static str {
        match self {
            Self::Objects => OBJECTS,
            Self::Manifests => MANIFESTS,
            Self::Snapshots => SNAPSHOTS,
            Self::Pending => PENDING,
            Self::Marks => MARKS,
        }
        .trim_end_matches('/')
    }

    /// How what is there is sealed.
    fn form(self) -> u8 {
        if self == Self::Objects { 2 } else { 1 }
    }
}

/// Why stored bytes cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SealError {
    #[error("checksum differs")]
    Checksum,
    #[error("is not sealed as it should be")]
    Form,
    #[error("is sealed with a key that is not among the repository's; if one was added meanwhile, open it anew")]
    Generation,
    #[error("cannot be read with a key that only writes")]
    WriteOnly,
}

/// Names, seals and opens what a repository stores.
#[derive(Clone, Debug)]
pub(super) enum Seal {
    /// Nothing is sealed.
    Plain,
    /// Everything is.
    Keyed(Arc<Keys>),
}

/// What is stored, and its name.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) name: Digest,
    pub(super) parts: Vec<Bytes>,
    pub(super) bytes: u64,
}

/// The keys of an encrypted repository.
pub(super) struct Keys {
    repository: Uuid,
    /// Oldest first, never empty.
    generations: Vec<Generation>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.generations.iter().map(|generation| generation.id)).finish()
    }
}

struct Generation {
    id: [u8; 8],
    public: [u8; 32],
    read: Option<Zeroizing<[u8; 32]>>,
    names: Zeroizing<[u8; 32]>,
    tokens: Zeroizing<[u8; 32]>,
    manifests: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// The keys that `generations`, of which there is one at least, stand for.
    pub(super) fn new(repository: Uuid, generations: &[GenerationSecrets]) -> Self {
        let generations = generations.iter().map(Generation::new).collect();
        Self { repository, generations }
    }

    /// What is sealed with a thing but not hidden.
    fn associated(&self, header: &[u8], shelf: Shelf) -> Vec<u8> {
        [self.repository.as_bytes(), header, shelf.name().as_bytes()].concat()
    }

    fn seal(&self, shelf: Shelf, parts: &[Bytes]) -> Sealed {
        let generation = &self.generations[self.generations.len() - 1];
        let len: usize = parts.iter().map(Bytes::len).sum();
        let padded = if shelf == Shelf::Objects { len } else { padded(len + 1) };
        let mut stored = BytesMut::with_capacity(padded + OVERHEAD);
        stored.extend_from_slice(&[shelf.form()]);
        stored.extend_from_slice(&generation.id);
        let associated = self.associated(&stored, shelf);
        stored.resize(HEADER, 0);
        parts.iter().for_each(|part| stored.extend_from_slice(part));
        if shelf != Shelf::Objects {
            stored.extend_from_slice(&[0x80]);
            stored.resize(HEADER + padded, 0);
        }
        let secret = token(&generation.tokens, &associated, &stored[HEADER..]);
        let (token, key) = match shelf {
            Shelf::Objects => encapsulate(OBJECT_CONTEXT, &secret, &generation.public),
            _ => (secret, generation.manifest_key(&secret)),
        };
        stored[HEADER - 32..HEADER].copy_from_slice(&token);
        let tag = encrypt(&key, &associated, &mut stored[HEADER..]);
        stored.extend_from_slice(&tag);
        let name = Digest::keyed(&generation.names, [&stored[..]]);
        Sealed { name, bytes: stored.len() as u64, parts: vec![stored.freeze()] }
    }

    fn open(&self, shelf: Shelf, name: Digest, stored: Bytes) -> Result<Bytes, SealError> {
        let (header, rest) = stored.split_at_checked(HEADER).ok_or(SealError::Form)?;
        let (form, id, token) = (header[0], &header[1..9], &header[9..]);
        if form != shelf.form() || rest.len() < TAG {
            return Err(SealError::Form);
        }
        let known = self.generations.iter().find(|generation| generation.id == *id);
        let generation = known.ok_or(SealError::Generation)?;
        if Digest::keyed(&generation.names, [&stored[..]]) != name {
            return Err(SealError::Checksum);
        }
        let token: [u8; 32] = token.try_into().map_err(|_| SealError::Form)?;
        let key = match shelf {
            Shelf::Objects => {
                let read = generation.read.as_deref().ok_or(SealError::WriteOnly)?;
                decapsulate(OBJECT_CONTEXT, &token, read, &generation.public)
            }
            _ => generation.manifest_key(&token),
        };
        let associated = self.associated(&header[..9], shelf);
        // In place where nobody else has the bytes.
        let mut plain = stored.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])).split_off(HEADER);
        if !decrypt(&key, &associated, &mut plain) {
            return Err(SealError::Form);
        }
        if shelf != Shelf::Objects {
            let end = plain.iter().rposition(|byte| *byte != 0).filter(|end| plain[*end] == 0x80);
            plain.truncate(end.ok_or(SealError::Form)?);
        }
        Ok(plain.freeze())
    }
}

impl Generation {
    fn new(secrets: &GenerationSecrets) -> Self {
        let derived = |context| Zeroizing::new(blake3::derive_key(context, &*secrets.write_key.0));
        Self {
            id: generation_id(&secrets.public_key),
            public: secrets.public_key,
            read: secrets.read_key.as_ref().map(|key| key.0.clone()),
            names: derived("ottla repository names"),
            tokens: derived("ottla repository tokens"),
            manifests: derived("ottla repository manifests"),
        }
    }

    fn manifest_key(&self, token: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*blake3::keyed_hash(&self.manifests, token).as_bytes())
    }
}

impl Seal {
    /// What is stored of `parts`, one after the other, under which name.
    pub(super) fn seal(&self, shelf: Shelf, parts: Vec<Bytes>) -> Sealed {
        match self {
            Self::Plain => Sealed {
                name: Digest::of(parts.iter().map(|part| &part[..])),
                bytes: parts.iter().map(|part| part.len() as u64).sum(),
                parts,
            },
            Self::Keyed(keys) => keys.seal(shelf, &parts),
        }
    }

    /// What was sealed and is `stored` under `name`.
    pub(super) fn open(&self, shelf: Shelf, name: Digest, stored: Bytes) -> Result<Bytes, SealError> {
        match self {
            Self::Plain if Digest::of([&stored[..]]) == name => Ok(stored),
            Self::Plain => Err(SealError::Checksum),
            Self::Keyed(keys) => keys.open(shelf, name, stored),
        }
    }
}

const OBJECT_CONTEXT: &str = "ottla repository object";

/// A token that is drawn from what it is for.
pub(super) fn token(tokens: &[u8; 32], associated: &[u8], plain: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new_keyed(tokens).update(associated).update(plain).finalize().as_bytes()
}

/// The id of the generation with this public key.
pub(super) fn generation_id(public: &[u8; 32]) -> [u8; 8] {
    let mut id = [0; 8];
    id.copy_from_slice(&blake3::hash(public).as_bytes()[..8]);
    id
}

/// The public key of an X25519 secret.
pub(super) fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    x25519(*secret, X25519_BASEPOINT_BYTES)
}

/// A key that only who has the secret of `public` can have, and the token that tells him.
pub(super) fn encapsulate(context: &str, secret: &[u8; 32], public: &[u8; 32]) -> ([u8; 32], Zeroizing<[u8; 32]>) {
    let token = public_key(secret);
    (token, agreed(context, &token, public, &x25519(*secret, *public)))
}

/// The key that [`encapsulate`] made.
pub(super) fn decapsulate(
    context: &str,
    token: &[u8; 32],
    secret: &[u8; 32],
    public: &[u8; 32],
) -> Zeroizing<[u8; 32]> {
    agreed(context, token, public, &x25519(*secret, *token))
}

fn agreed(context: &str, token: &[u8; 32], public: &[u8; 32], shared: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(token).update(public).update(shared);
    Zeroizing::new(*hasher.finalize().as_bytes())
}

/// Encrypts `bytes` where they are, under a key that encrypts nothing else; the tag.
pub(super) fn encrypt(key: &[u8; 32], associated: &[u8], bytes: &mut [u8]) -> [u8; TAG] {
    let tag = ChaCha20Poly1305::new(key.into()).encrypt_inout_detached(&Nonce::default(), associated, bytes.into());
    tag.expect("memory is less than the 256 GiB that may be encrypted").into()
}

/// Decrypts `bytes`, at whose end is the tag that is cut off; whether it fits.
#[must_use]
pub(super) fn decrypt(key: &[u8; 32], associated: &[u8], bytes: &mut BytesMut) -> bool {
    let Some(end) = bytes.len().checked_sub(TAG) else { return false };
    let Ok(tag) = <[u8; TAG]>::try_from(&bytes[end..]) else { return false };
    bytes.truncate(end);
    let cipher = ChaCha20Poly1305::new(key.into());
    cipher.decrypt_inout_detached(&Nonce::default(), associated, (&mut bytes[..]).into(), &Tag::from(tag)).is_ok()
}

/// How long a manifest of `len` bytes is made: by Padmé, so that its length tells of the order of its size and little more.
fn padded(len: usize) -> usize {
    let len = len.max(MIN_PADDED);
    let exponent = len.ilog2();
    let mask = (1 << (exponent - (exponent.ilog2() + 1))) - 1;
    (len + mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_padded_length_tells_little() {
        for len in 1..5_000_usize {
            let padded = padded(len);
            assert!(padded >= len.max(MIN_PADDED));
            assert!(len < MIN_PADDED || padded * 100 <= len * 112, "{len} {padded}");
            assert_eq!(super::padded(padded), padded, "{len}");
        }
        let lengths: std::collections::BTreeSet<usize> = (1..100_000).map(padded).collect();
        assert!(lengths.len() < 150, "{}", lengths.len());
    }
}
