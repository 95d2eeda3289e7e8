//! A client's side of SASL, as messages in and out: PLAIN (RFC 4616), SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677).
//!
//! Kafka carries these messages in SaslAuthenticate requests (KIP-152). An [`Exchange`] reads no clock and draws no chance:
//! the nonce is an argument.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use pbkdf2::pbkdf2_hmac;
use sha2::{Digest, Sha256, Sha512};

/// The most rounds that a server may ask for: a limit to what a wrong one can make us compute. Kafka's default is 4,096.
const MAX_ITERATIONS: u32 = 1_000_000;

/// The fewest rounds that are taken (RFC 7677, section 4).
const MIN_ITERATIONS: u32 = 4_096;

/// A text that is not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The password as it is: for connections with TLS.
    Plain,
    /// A proof of knowing the password, from both sides, with SHA-256.
    ScramSha256,
    /// The same with SHA-512.
    ScramSha512,
}

impl Mechanism {
    /// Its registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl FromStr for Mechanism {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Plain, Self::ScramSha256, Self::ScramSha512]
            .into_iter()
            .find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| "expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512".to_owned())
    }
}

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// How it proves that.
    pub mechanism: Mechanism,
    /// Its name.
    pub username: String,
    /// Its password.
    pub password: Secret,
}

/// Why an exchange ended without success: what the other side said or did, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SaslError(String);

/// One authentication. [`first`](Self::first) opens it; every answer of the server goes into [`answer`](Self::answer).
#[derive(Debug)]
pub struct Exchange {
    credentials: Credentials,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// PLAIN has said everything.
    Said,
    /// The first message was sent.
    First {
        nonce: String,
        first_bare: String,
    },
    /// The proof was sent, and the server is to answer with its own.
    Proven {
        server_signature: Secret,
    },
    Done,
}

impl Exchange {
    /// An exchange with `nonce`, which nobody can guess and which was not used before.
    pub fn new(credentials: Credentials, nonce: &[u8]) -> Self {
        let step = match credentials.mechanism {
            Mechanism::Plain => Step::Said,
            Mechanism::ScramSha256 | Mechanism::ScramSha512 => {
                let nonce = BASE64.encode(nonce);
                // Names are taken as they are: Kafka does not prepare them as RFC 4013 would.
                let name = credentials.username.replace('=', "=3D").replace(',', "=2C");
                Step::First { first_bare: format!("n={name},r={nonce}"), nonce }
            }
        };
        Self { credentials, step }
    }

    /// The message that opens it.
    pub fn first(&self) -> Vec<u8> {
        match &self.step {
            Step::First { first_bare, .. } => format!("n,,{first_bare}").into_bytes(),
            _ => format!("\0{}\0{}", self.credentials.username, self.credentials.password.reveal()).into_bytes(),
        }
    }

    /// Takes a message of the server's; the answer to it, or `None` when both sides are content.
    ///
    /// # Errors
    /// The server says no, says nothing that makes sense, or does not know the password either.
    pub fn answer(&mut self, challenge: &[u8]) -> Result<Option<Vec<u8>>, SaslError> {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Said => Ok(None),
            Step::First { nonce, first_bare } => {
                let challenge = text(challenge)?;
                let with = if self.credentials.mechanism == Mechanism::ScramSha512 { &SHA_512 } else { &SHA_256 };
                let (message, server_signature) = prove(with, &self.credentials, &nonce, &first_bare, challenge)?;
                self.step = Step::Proven { server_signature: Secret(server_signature) };
                Ok(Some(message.into_bytes()))
            }
            Step::Proven { server_signature } => {
                let last = text(challenge)?;
                if let Some(error) = last.strip_prefix("e=") {
                    return Err(SaslError(format!("the server refused: {error}")));
                }
                match attribute(last, "v=")? {
                    signature if signature == server_signature.reveal() => Ok(None),
                    _ => Err(SaslError(
                        "the server does not know the password: it may not be who it claims to be".into(),
                    )),
                }
            }
            Step::Done => Err(SaslError("the server goes on after the end".into())),
        }
    }
}

fn text(message: &[u8]) -> Result<&str, SaslError> {
    std::str::from_utf8(message).map_err(|_| SaslError("the server's message is no text".into()))
}

/// The value behind `name` among attributes that are separated by commas.
fn attribute<'a>(message: &'a str, name: &str) -> Result<&'a str, SaslError> {
    let found = message.split(',').find_map(|part| part.strip_prefix(name));
    found.ok_or_else(|| SaslError(format!("the server's message lacks {name}")))
}

type Signing = fn(&[u8], &[u8]) -> Result<Vec<u8>, SaslError>;

/// What a SCRAM mechanism computes with.
struct Primitives {
    sign: Signing,
    hash: fn(&[u8]) -> Vec<u8>,
    stretch: fn(&[u8], &[u8], u32) -> Vec<u8>,
}

const SHA_256: Primitives = Primitives {
    sign: sign::<Hmac<Sha256>>,
    hash: |bytes| Sha256::digest(bytes).to_vec(),
    stretch: |password, salt, rounds| {
        let mut key = vec![0; 32];
        pbkdf2_hmac::<Sha256>(password, salt, rounds, &mut key);
        key
    },
};

const SHA_512: Primitives = Primitives {
    sign: sign::<Hmac<Sha512>>,
    hash: |bytes| Sha512::digest(bytes).to_vec(),
    stretch: |password, salt, rounds| {
        let mut key = vec![0; 64];
        pbkdf2_hmac::<Sha512>(password, salt, rounds, &mut key);
        key
    },
};

fn sign<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Result<Vec<u8>, SaslError> {
    let mut mac = M::new_from_slice(key).map_err(|_| SaslError("the key has a wrong length".into()))?;
    mac.update(message);
    Ok(mac.finalize().into_bytes().to_vec())
}

/// The client's final message, and the signature with which the server has to answer (RFC 5802, section 3).
fn prove(
    with: &Primitives,
    credentials: &Credentials,
    nonce: &str,
    first_bare: &str,
    challenge: &str,
) -> Result<(String, String), SaslError> {
    let whole = attribute(challenge, "r=")?;
    if !whole.starts_with(nonce) || whole.len() == nonce.len() {
        return Err(SaslError("the server's nonce does not go on from ours".into()));
    }
    let salt = BASE64.decode(attribute(challenge, "s=")?).map_err(|_| SaslError("the salt is no base64".into()))?;
    let rounds = attribute(challenge, "i=")?.parse().unwrap_or(0);
    if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&rounds) {
        let limits = format!("min={MIN_ITERATIONS} max={MAX_ITERATIONS}");
        return Err(SaslError(format!("iterations are out of range iterations={rounds} {limits}")));
    }
    let salted = (with.stretch)(credentials.password.reveal().as_bytes(), &salt, rounds);
    let client_key = (with.sign)(&salted, b"Client Key")?;
    let stored_key = (with.hash)(&client_key);
    // "biws" is "n,,": no channel binding.
    let without_proof = format!("c=biws,r={whole}");
    let signed = format!("{first_bare},{challenge},{without_proof}");
    let client_signature = (with.sign)(&stored_key, signed.as_bytes())?;
    let proof: Vec<u8> = client_key.iter().zip(&client_signature).map(|(key, signature)| key ^ signature).collect();
    let server_key = (with.sign)(&salted, b"Server Key")?;
    let server_signature = (with.sign)(&server_key, signed.as_bytes())?;
    Ok((format!("{without_proof},p={}", BASE64.encode(proof)), BASE64.encode(server_signature)))
}
