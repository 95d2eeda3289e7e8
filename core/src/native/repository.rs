//! Repositories as people name them, and what opens them: options, the environment, key files in the user's configuration.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::objects;
use super::pipe::random_id;
use crate::backup::manifest::Argon2Cost;
use crate::backup::{AgeIdentity, Lock, ObjectStore, Repository, Secret};
use crate::{Error, ErrorKind, Result, Timestamp};

/// The environment variable with a passphrase.
pub const PASSPHRASE_VARIABLE: &str = "OTTLA_PASSPHRASE";

/// The longest passphrase, and the largest file with identities, that is read.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// What opens a repository, and locks one that is made. Where nothing is given, the environment variable `OTTLA_PASSPHRASE` counts, and
/// then the key file that was written when the repository was made here.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Access {
    /// A passphrase.
    pub passphrase: Option<Secret>,
    /// A file whose first line is a passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// A command of the shell whose output's first line is a passphrase.
    pub passphrase_command: Option<String>,
    /// Files with age identities.
    pub identities: Vec<PathBuf>,
    /// Whether the repository is, or is made, without encryption. Default: no.
    pub plain: bool,
}

impl Access {
    /// With a passphrase.
    pub fn passphrase(passphrase: impl Into<String>) -> Self {
        Self { passphrase: Some(secret(passphrase.into())), ..Self::default() }
    }

    /// What was given, or is in the environment.
    ///
    /// # Errors
    /// `Invalid` if a file or command gives no passphrase or identity; what the system says of a file that cannot be read.
    pub fn secrets(&self) -> Result<Vec<Secret>> {
        let mut secrets: Vec<Secret> = self.passphrase.clone().into_iter().collect();
        if let Some(path) = &self.passphrase_file {
            secrets.push(read_passphrase(path)?);
        }
        if let Some(command) = &self.passphrase_command {
            secrets.push(run_passphrase(command)?);
        }
        for path in &self.identities {
            let identities = AgeIdentity::parse_file(&read_secret(path)?)
                .map_err(|error| error.context(format_args!("identity file {}", path.display())))?;
            secrets.extend(identities.into_iter().map(Secret::Identity));
        }
        if secrets.is_empty()
            && let Some(passphrase) = std::env::var_os(PASSPHRASE_VARIABLE).filter(|passphrase| !passphrase.is_empty())
        {
            let passphrase = passphrase.into_string().map_err(|_| {
                Error::new(ErrorKind::Invalid, format!("the passphrase in {PASSPHRASE_VARIABLE} is not UTF-8"))
            })?;
            secrets.push(secret(passphrase));
        }
        Ok(secrets)
    }
}

fn secret(passphrase: String) -> Secret {
    Secret::Passphrase(Zeroizing::new(passphrase))
}

/// A repository that may be there or not: where, and what opens it.
#[derive(Clone, Debug)]
pub struct RepositoryPlace {
    store: Arc<dyn ObjectStore>,
    access: Access,
}

/// A repository that has been made.
#[derive(Debug)]
pub struct Created {
    /// The repository.
    pub repository: Repository,
    /// The file that its key was written to, if none was given. Who loses it loses the backup.
    pub key_file: Option<PathBuf>,
}

impl RepositoryPlace {
    /// The place that `name` stands for; see [`objects::open`].
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` if no store has such a name.
    pub fn new(name: &str, access: Access) -> Result<Self> {
        Ok(Self { store: objects::open(name)?, access })
    }

    /// What opens it.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Denied` without the right key; `Invalid` if it is plain though a key is there for it: another
    /// one may have been put in its place; see [`Repository::open`].
    pub async fn open(&self) -> Result<Repository> {
        let manifest = Repository::read_manifest(&*self.store).await?;
        if self.access.plain {
            return Repository::open(self.store.clone()).await;
        }
        let secrets = self.secrets_for(manifest.id)?;
        if secrets.is_empty() {
            return Repository::open(self.store.clone()).await;
        }
        Repository::unlock(self.store.clone(), &secrets).await
    }

    /// What was given, or is in the environment, or was written when the repository with this id was made here.
    ///
    /// # Errors
    /// Those of [`Access::secrets`].
    pub fn secrets_for(&self, id: Uuid) -> Result<Vec<Secret>> {
        let mut secrets = self.access.secrets()?;
        if let (true, Ok(path)) = (secrets.is_empty(), own_key_path(id))
            && path.exists()
        {
            secrets.push(read_passphrase(&path)?);
        }
        Ok(secrets)
    }

    /// Makes the repository: encrypted, and if no key is given with one that is written to a file, unless the access is plain.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one; see [`Repository::create`]; what the system says of the key file.
    pub async fn create(&self, now: Timestamp) -> Result<Created> {
        let id = random_id();
        if self.access.plain {
            let repository = Repository::create(self.store.clone(), id, now).await?;
            return Ok(Created { repository, key_file: None });
        }
        let given = self.access.secrets()?;
        let (lock, key_file) = match given.into_iter().next() {
            Some(secret) => (lock(secret), None),
            None => {
                let path = own_key_path(id)?;
                (lock(write_new_passphrase(&path)?), Some(path))
            }
        };
        let made = Repository::create_encrypted(self.store.clone(), id, now, &lock, &random()?).await;
        if let (Err(error), Some(path)) = (&made, &key_file)
            // Otherwise it may have been made and only the answer be lost: then the key is all there is of it.
            && matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Invalid | ErrorKind::NotFound)
        {
            let _ = fs::remove_file(path);
        }
        Ok(Created { repository: made?, key_file })
    }

    /// Opens the repository, or makes it. Says where a new key file is.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) and [`create`](Self::create) but that it is there already or not there.
    pub async fn open_or_create(&self, now: Timestamp) -> Result<Repository> {
        match self.open().await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
        match self.create(now).await {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.open().await,
            Err(error) => Err(error),
            Ok(Created { repository, key_file }) => {
                if let Some(path) = key_file {
                    log::warn!("{}", told(&path));
                }
                Ok(repository)
            }
        }
    }
}

/// What is said of a key file that was written.
pub(super) fn told(path: &Path) -> String {
    format!(
        "the repository is encrypted and its key is in {}; without it nobody can restore, keep a copy elsewhere",
        path.display()
    )
}

/// The lock that `secret` opens.
pub fn lock(secret: Secret) -> Lock {
    match secret {
        Secret::Identity(identity) => Lock::Recipient(identity.recipient()),
        passphrase @ Secret::Passphrase(_) => Lock::Passphrase(passphrase, Argon2Cost::default()),
    }
}

/// 32 bytes that nobody can guess.
///
/// # Errors
/// `Unsupported` if the system has none.
pub fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Unsupported, "the system gives no random bytes").with_source(error))?;
    Ok(bytes)
}

/// Where the key of the repository with this id is kept for this user.
fn own_key_path(id: Uuid) -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let home = home.ok_or_else(|| {
        let message =
            "there is no home directory for a key file, give a passphrase: --passphrase-file, OTTLA_PASSPHRASE";
        Error::new(ErrorKind::Invalid, message)
    })?;
    Ok(home.join("ottla").join("keys").join(id.to_string()))
}

/// Writes a new passphrase to `path`, for its owner alone, and to the disk.
///
/// # Errors
/// `AlreadyExists` if there is such a file; what the system says.
pub fn write_new_passphrase(path: &Path) -> Result<Secret> {
    let failed =
        |error: io::Error| Error::from(error).context(format_args!("cannot write the key file {}", path.display()));
    let passphrase = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(Zeroizing::new(random()?)));
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(format!("{}\n", *passphrase).as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(Secret::Passphrase(passphrase))
}

/// The passphrase that is the first line of a file.
///
/// # Errors
/// `Invalid` if there is none; what the system says.
pub fn read_passphrase(path: &Path) -> Result<Secret> {
    first_line(&read_secret(path)?)
        .map_err(|reason| Error::new(ErrorKind::Invalid, format!("passphrase file {reason} path={}", path.display())))
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>> {
    let failed = |error: io::Error| Error::from(error).context(format_args!("cannot read {}", path.display()));
    let mut text = Zeroizing::new(String::new());
    fs::File::open(path).map_err(failed)?.take(MAX_SECRET_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// The passphrase that is the first line of what a command of the shell prints.
///
/// # Errors
/// `Invalid` if it fails or prints none.
pub fn run_passphrase(command: &str) -> Result<Secret> {
    let invalid = |reason: String| Error::new(ErrorKind::Invalid, format!("passphrase command {reason}"));
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = shell.output().map_err(|error| invalid(format!("cannot be run: {error}")))?;
    if !output.status.success() {
        return Err(invalid(format!("failed: {}", output.status)));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| invalid("prints what is not UTF-8".to_owned()))?;
    first_line(&Zeroizing::new(text)).map_err(|reason| invalid(reason.to_owned()))
}

fn first_line(text: &str) -> Result<Secret, &'static str> {
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(secret(line.to_owned())),
        _ => Err("has an empty first line where the passphrase should be"),
    }
}
