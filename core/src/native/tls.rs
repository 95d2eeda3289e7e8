//! TLS of a client, from the options of kafka-python: whom to trust, and who we are.
//!
//! Files are read when a connection opens, so that a certificate that was renewed is used by the next one.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig as Rustls, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::client::ClientConfig;
use crate::protocol::sasl::Secret;

/// Whom to trust and who we are, where connections are encrypted.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    cafile: Option<String>,
    certfile: Option<String>,
    keyfile: Option<String>,
    password: Option<Secret>,
    crlfile: Option<String>,
    check_hostname: bool,
}

impl TlsOptions {
    /// The options of a client whose connections are to be encrypted.
    pub fn of(config: &ClientConfig) -> Option<Self> {
        config.security_protocol.has_tls().then(|| Self {
            cafile: config.ssl_cafile.clone(),
            certfile: config.ssl_certfile.clone(),
            keyfile: config.ssl_keyfile.clone(),
            password: config.ssl_password.clone(),
            crlfile: config.ssl_crlfile.clone(),
            check_hostname: config.ssl_check_hostname,
        })
    }

    /// What the TLS library needs for a connection.
    ///
    /// # Errors
    /// `InvalidInput` if a file cannot be read or holds something else; the text names the option and the file.
    pub(super) fn load(&self) -> io::Result<Arc<Rustls>> {
        // Named here, never installed for the process: that is the application's to do.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = match &self.cafile {
            Some(path) => own_roots(path)?,
            None => system_roots()?,
        };
        let mut verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
        if let Some(path) = &self.crlfile {
            let lists = CertificateRevocationListDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| wrong("ssl_crlfile", path, error))?;
            if lists.is_empty() {
                // Without one nothing would be looked up.
                return Err(wrong("ssl_crlfile", path, "there is no list in it (an X509 CRL in PEM is expected)"));
            }
            // As Python's VERIFY_CRL_CHECK_LEAF: the broker's own certificate must be in the reach of a list that is in force.
            verifier = verifier.with_crls(lists).only_check_end_entity_revocation().enforce_revocation_expiration();
        }
        let verifier = verifier.build().map_err(|error| invalid(format!("ssl_cafile is of no use: {error}")))?;
        let verifier = Arc::new(Verifier { verifier, check_hostname: self.check_hostname });
        let builder = Rustls::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match &self.certfile {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let chain = CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| wrong("ssl_certfile", path, error))?;
                if chain.is_empty() {
                    return Err(wrong("ssl_certfile", path, "there is no certificate in it (PEM is expected)"));
                }
                let (option, keyfile) = match &self.keyfile {
                    Some(keyfile) => ("ssl_keyfile", keyfile),
                    None => ("ssl_certfile", path),
                };
                let key = private_key(option, keyfile, self.password.as_ref())?;
                builder.with_client_auth_cert(chain, key).map_err(|error| wrong(option, keyfile, error))?
            }
        };
        Ok(Arc::new(config))
    }
}

/// What the TLS library needs for a connection to who is vouched for by an authority that the system trusts.
///
/// # Errors
/// `InvalidInput` if the system trusts none.
pub(super) fn of_system() -> io::Result<Rustls> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        Rustls::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(builder.with_root_certificates(system_roots()?).with_no_client_auth())
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn wrong(option: &str, path: impl AsRef<Path>, why: impl std::fmt::Display) -> io::Error {
    invalid(format!("{option} cannot be used, {why} file={}", path.as_ref().display()))
}

fn own_roots(path: &str) -> io::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong("ssl_cafile", path, error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong("ssl_cafile", path, error))?;
        roots.add(certificate).map_err(|error| wrong("ssl_cafile", path, error))?;
    }
    if roots.is_empty() {
        return Err(wrong("ssl_cafile", path, "there is no certificate in it (PEM is expected)"));
    }
    Ok(Arc::new(roots))
}

/// The authorities that the system trusts, looked up once.
fn system_roots() -> io::Result<Arc<RootCertStore>> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            log::warn!("certificates of the system cannot be read: {error}");
        }
        let mut roots = RootCertStore::empty();
        // Some of a system's old ones are not well-formed; that is no reason to trust none.
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        return Err(invalid(
            "the system names no certificate authorities: set ssl_cafile (Debian: ca-certificates)".into(),
        ));
    }
    Ok(Arc::clone(roots))
}

fn private_key(option: &str, path: &str, password: Option<&Secret>) -> io::Result<PrivateKeyDer<'static>> {
    let text = fs::read_to_string(path).map_err(|error| wrong(option, path, error))?;
    const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
    if let Some(begin) = text.find(ENCRYPTED) {
        let Some(password) = password else {
            return Err(wrong(option, path, "the key is encrypted: set ssl_password"));
        };
        const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
        let end = text[begin..].find(END).map_or(text.len(), |end| begin + end + END.len());
        let (_, document) =
            pkcs8::SecretDocument::from_pem(&text[begin..end]).map_err(|error| wrong(option, path, error))?;
        let encrypted = pkcs8::EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
            .map_err(|error| wrong(option, path, error))?;
        let key = encrypted
            .decrypt(password.reveal())
            .map_err(|_| wrong(option, path, "ssl_password does not open the key, or not in this format"))?;
        return PrivateKeyDer::try_from(key.as_bytes().to_vec()).map_err(|error| wrong(option, path, error));
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(wrong(
            option,
            path,
            "the key is encrypted in an old format: rewrite it with `openssl pkcs8 -topk8`",
        ));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| wrong(option, path, error))
}

/// The usual check of a broker's certificate; without that of its name if that is not wanted.
#[derive(Debug)]
struct Verifier {
    verifier: Arc<WebPkiServerVerifier>,
    check_hostname: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_hostname => Ok(ServerCertVerified::assertion()),
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// As [`explain`], for what ends a handshake.
pub(super) fn explain_handshake(error: io::Error) -> io::Error {
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return explain(error);
    }
    io::Error::new(error.kind(), format!("the TLS handshake ended early, {error}: is its listener one with TLS?"))
}

/// A failure of TLS in words that say what to do. Its kind says whether to try again.
pub(super) fn explain(error: io::Error) -> io::Error {
    let denied = |message: String| io::Error::new(io::ErrorKind::PermissionDenied, message);
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return error;
    };
    match tls {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => denied(
                "the broker's certificate is not from an authority that is trusted: name that authority's certificate by \
                 ssl_cafile"
                    .into(),
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                denied(format!("the broker's certificate has expired ({why}): it has to be renewed there"))
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                denied(format!("the broker's certificate is not valid yet ({why}): is this machine's clock right?"))
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => denied(format!(
                "the broker's certificate is for another name ({why}): connect by that name, or set ssl_check_hostname=false"
            )),
            CertificateError::Revoked => denied("the broker's certificate was revoked (ssl_crlfile)".into()),
            CertificateError::UnknownRevocationStatus => {
                denied("no list in ssl_crlfile is from the issuer of the broker's certificate".into())
            }
            CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
                denied(format!("the list in ssl_crlfile is out of date ({why}): get a newer one"))
            }
            why => denied(format!("the broker's certificate is not valid: {why}")),
        },
        rustls::Error::InvalidMessage(_) => io::Error::other(
            "what answers there does not speak TLS: is its listener one with PLAINTEXT or SASL_PLAINTEXT?".to_owned(),
        ),
        rustls::Error::AlertReceived(alert) => denied(format!(
            "the broker refuses the connection by TLS ({alert:?}): does it want a certificate of ours (ssl_certfile)?"
        )),
        tls => io::Error::other(format!("TLS: {tls}")),
    }
}

/// The name that a broker's certificate has to have.
pub(super) fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned())
        .map_err(|error| invalid(format!("the host's name is none for TLS: {error} host={host}")))
}
