//! `ottla init`, `ottla key`, and the options that open a repository.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::position::time_text;
use super::{Output, table};
use crate::backup::manifest::KeyAccess;
use crate::backup::{AgeRecipient, KeyFile, Lock, Repository};
use crate::native::Runtime;
use crate::native::repository::{
    Access, Created, RepositoryPlace, lock, random, read_passphrase, run_passphrase, told, write_new_passphrase,
};
use crate::{Error, ErrorKind, Result};

/// What opens a repository.
#[derive(Clone, Debug, Args)]
pub(super) struct AccessArgs {
    /// The first line of FILE is the repository's passphrase; without this, $OTTLA_PASSPHRASE, or the key file that was written when the
    /// repository was made here
    #[arg(long, value_name = "FILE", help_heading = "Repository")]
    passphrase_file: Option<PathBuf>,

    /// The first line that COMMAND prints is the passphrase
    #[arg(long, value_name = "COMMAND", help_heading = "Repository")]
    passphrase_command: Option<String>,

    /// FILE has an age identity, as age-keygen writes it; may be repeated
    #[arg(long, value_name = "FILE", help_heading = "Repository")]
    identity: Vec<PathBuf>,

    /// The repository is, or is made, without encryption
    #[arg(long, help_heading = "Repository", conflicts_with_all = ["passphrase_file", "passphrase_command", "identity"])]
    no_encryption: bool,
}

impl AccessArgs {
    fn access(&self) -> Access {
        Access {
            passphrase: None,
            passphrase_file: self.passphrase_file.clone(),
            passphrase_command: self.passphrase_command.clone(),
            identities: self.identity.clone(),
            plain: self.no_encryption,
        }
    }

    /// The repository that `name` stands for, opened by these options.
    pub(super) fn place(&self, name: &str) -> Result<RepositoryPlace> {
        RepositoryPlace::new(name, self.access())
    }
}

/// A repository, and what opens it.
#[derive(Clone, Debug, Args)]
pub(super) struct RepositoryArgs {
    /// The repository: a directory or a URL
    #[arg(value_name = "REPOSITORY")]
    pub(super) repository: String,

    #[command(flatten)]
    access: AccessArgs,
}

impl RepositoryArgs {
    pub(super) fn place(&self) -> Result<RepositoryPlace> {
        self.access.place(&self.repository)
    }

    /// The repository and the snapshot of `REPOSITORY@SNAPSHOT`, the newest where none is named.
    pub(super) fn split(&self) -> (Self, String) {
        let (repository, snapshot) = match self.repository.rsplit_once('@') {
            Some((repository, snapshot)) => (repository.to_owned(), snapshot.to_owned()),
            None => (self.repository.clone(), "latest".to_owned()),
        };
        (Self { repository, ..self.clone() }, snapshot)
    }

    pub(super) async fn open(&self) -> Result<Repository> {
        self.place()?.open().await
    }
}

/// Arguments of `ottla init`.
#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    repository: RepositoryArgs,
}

impl Init {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let place = self.repository.place()?;
        let runtime = Runtime::new()?;
        let Created { repository, key_file } = runtime.block_on(place.create(runtime.clock().now()))?;
        let manifest = repository.manifest();
        output.result(
            || {
                json!({
                    "id": manifest.id.to_string(), "encryption": manifest.encryption, "key_file": key_file,
                    "repository": repository.place(),
                })
            },
            || match &key_file {
                Some(path) => format!("made repository {}: {}", manifest.id, told(path)),
                None if manifest.is_encrypted() => format!("made repository {}, encrypted", manifest.id),
                None => format!("made repository {}, without encryption", manifest.id),
            },
        )
    }
}

/// Arguments of `ottla key`.
#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show who can open the repository
    List {
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Let another in: who knows a passphrase, or has an age identity
    Add(Add),
    /// Shut one out who does not know the repository's secrets yet; `rotate` does for what is written afterwards
    Remove {
        #[command(flatten)]
        repository: RepositoryArgs,

        /// The first digits of the key's name
        key: String,
    },
    /// Seal what is written from now on with new secrets; what is there stays readable and is not written again
    Rotate {
        #[command(flatten)]
        repository: RepositoryArgs,

        /// Goes on to read and write: the owner of this age recipient; may be repeated
        #[arg(long, value_name = "RECIPIENT")]
        recipient: Vec<AgeRecipient>,

        /// Goes on to write: the owner of this age recipient; may be repeated
        #[arg(long, value_name = "RECIPIENT")]
        write_recipient: Vec<AgeRecipient>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AccessWord {
    /// Reads and writes
    Full,
    /// Backs up, and cannot read what was backed up
    Write,
}

#[derive(Debug, Args)]
#[group(id = "new", required = true, multiple = false, args = ["recipient", "new_passphrase_file", "new_passphrase_command", "new_key_file"])]
struct Add {
    #[command(flatten)]
    repository: RepositoryArgs,

    /// Who has the identity of this age recipient (age1…)
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Option<AgeRecipient>,

    /// Who knows the passphrase that is the first line of FILE
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,

    /// Who knows the passphrase that is the first line that COMMAND prints
    #[arg(long, value_name = "COMMAND")]
    new_passphrase_command: Option<String>,

    /// Who has FILE, which is written with a new passphrase
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,

    /// What the key gives
    #[arg(long, value_enum, default_value = "full")]
    access: AccessWord,

    /// Whose it is, which everybody can read who has the repository
    #[arg(long, default_value = "")]
    label: String,
}

impl Add {
    fn lock(&self) -> Result<Lock> {
        let secret = match self {
            Self { recipient: Some(recipient), .. } => return Ok(Lock::Recipient(*recipient)),
            Self { new_passphrase_file: Some(path), .. } => read_passphrase(path)?,
            Self { new_passphrase_command: Some(command), .. } => run_passphrase(command)?,
            Self { new_key_file: Some(path), .. } => write_new_passphrase(path)?,
            _ => return Err(Error::new(ErrorKind::Invalid, "whom the key is for is missing")),
        };
        Ok(lock(secret))
    }
}

impl Key {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let runtime = Runtime::new()?;
        let now = runtime.clock().now();
        match self.action {
            Action::List { repository } => {
                let (repository, files) = runtime.block_on(async {
                    let repository = repository.open().await?;
                    let files = repository.key_files().await?;
                    Ok::<_, Error>((repository, files))
                })?;
                let own = repository.opened_by();
                let rows = files.iter().map(|file| row(file, own == Some(file.name))).collect();
                let lines = files.iter().map(|file| key_json(file, own == Some(file.name))).collect();
                let headers = ["key", "made (UTC)", "opened by", "access", "label", ""];
                output.rows(lines, || table::draw(&headers, &rows_of(rows)))
            }
            Action::Add(add) => {
                let access = match add.access {
                    AccessWord::Full => KeyAccess::Full,
                    AccessWord::Write => KeyAccess::Write,
                };
                let made = runtime.block_on(async {
                    // The right to do so first: a new file for nothing would confuse.
                    let repository = add.repository.open().await?;
                    repository.add_key(&add.lock()?, access, &add.label, now, &random()?).await
                })?;
                output.result(|| key_json(&made, false), || format!("added key {} ({access})", made.short()))
            }
            Action::Remove { repository, key } => {
                let removed = runtime.block_on(async {
                    let repository = repository.open().await?;
                    let found = repository.find_key(&key).await?;
                    repository.remove_key(&found).await.map(|()| found)
                })?;
                output.result(|| key_json(&removed, false), || format!("removed key {}", removed.short()))
            }
            Action::Rotate { repository, recipient, write_recipient } => {
                let place = repository.place()?;
                let full = recipient.into_iter().map(|recipient| (recipient, KeyAccess::Full));
                let write = write_recipient.into_iter().map(|recipient| (recipient, KeyAccess::Write));
                let recipients: Vec<_> = full.chain(write).collect();
                let rotated = runtime.block_on(async {
                    let repository = place.open().await?;
                    let secrets = place.secrets_for(repository.id())?;
                    repository.rotate(&secrets, &recipients, now, &random()?).await
                })?;
                let generations = rotated.generations();
                let newest = generations.last().map(|(id, _)| id.clone()).unwrap_or_default();
                output.result(
                    || json!({"generation": newest, "generations": generations.len()}),
                    || format!("rotated: what is written from now on is sealed with generation {newest}"),
                )
            }
        }
    }
}

fn rows_of(rows: Vec<[String; 6]>) -> Vec<Vec<String>> {
    rows.into_iter().map(Vec::from).collect()
}

fn row(file: &KeyFile, is_own: bool) -> [String; 6] {
    let manifest = &file.manifest;
    [
        file.short(),
        time_text(manifest.created),
        manifest.recipient.clone().unwrap_or_else(|| "passphrase".to_owned()),
        manifest.access.to_string(),
        manifest.label.clone(),
        if is_own { "used now" } else { "" }.to_owned(),
    ]
}

fn key_json(file: &KeyFile, is_own: bool) -> serde_json::Value {
    let manifest = &file.manifest;
    json!({
        "key": file.name.to_string(), "created": manifest.created, "recipient": manifest.recipient,
        "access": manifest.access.to_string(), "label": manifest.label, "used": is_own,
    })
}
