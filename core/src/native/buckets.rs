//! A repository's objects in a bucket: Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector as Connector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore as Bucket, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    RetryConfig,
};

use super::tls;
use crate::backup::objects::{Listed, ObjectStore, Put, check_path, not_found};
use crate::{Error, ErrorKind, Result};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take until its answer begins, and the answer from one piece to the next.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The least rate at which a request's body is thought to be sent, in bytes a second; a slower one runs into the timeout.
const LEAST_RATE: u64 = 100_000;
/// How long a request that fails is tried again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(90);
/// How often.
const RETRIES: usize = 6;

/// Objects in a bucket, or below a prefix in it: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`.
///
/// Region, endpoint and credentials are looked up as these services' own tools do, in the environment (`AWS_ACCESS_KEY_ID`,
/// `AWS_REGION`, `AWS_ENDPOINT_URL`; `GOOGLE_APPLICATION_CREDENTIALS`; `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY` and
/// so on), or asked of the machine in the cloud. Unencrypted HTTP is only spoken to an endpoint whose URL says so.
///
/// An object is created by a put on the condition that there is none (`If-None-Match: *`). A request that fails in a way that may
/// pass is tried again; a put whose answer was lost then finds its object present.
#[derive(Clone)]
pub struct BucketObjects {
    bucket: Arc<dyn Bucket>,
    prefix: String,
    place: String,
}

impl fmt::Debug for BucketObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bucket's own would show credentials' places.
        f.debug_tuple("BucketObjects").field(&self.place).finish()
    }
}

impl BucketObjects {
    /// The bucket, and the prefix in it, that `url` names.
    ///
    /// # Errors
    /// `Invalid` if it names none, or the environment says too little, or what cannot be.
    pub fn open(url: &str) -> Result<Self> {
        let invalid = |reason: &str| Error::new(ErrorKind::Invalid, format!("{reason} given={url}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("is not a URL"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        if bucket.is_empty() {
            return Err(invalid("a bucket is missing, as in s3://BUCKET/PREFIX"));
        }
        if !prefix.is_empty() {
            check_path(prefix)?;
        }
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
        let http = Http::new()?;
        let configured = |error: object_store::Error| {
            Error::new(ErrorKind::Invalid, format!("bucket is not configured: {error} given={url}"))
        };
        let bucket: Arc<dyn Bucket> = match scheme {
            "s3" => {
                let mut builder =
                    AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry).with_http_connector(http);
                if endpoint(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]) {
                    builder = builder.with_allow_http(true);
                }
                Arc::new(builder.build().map_err(configured)?)
            }
            "gs" => {
                let builder = GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(bucket)
                    .with_retry(retry)
                    .with_http_connector(http);
                Arc::new(builder.build().map_err(configured)?)
            }
            "az" => {
                let mut builder = MicrosoftAzureBuilder::from_env()
                    .with_container_name(bucket)
                    .with_retry(retry)
                    .with_http_connector(http);
                if endpoint(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]) {
                    builder = builder.with_allow_http(true);
                }
                Arc::new(builder.build().map_err(configured)?)
            }
            _ => return Err(invalid("a repository is a directory, s3://, gs:// or az://")),
        };
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket, prefix, place: url.trim_end_matches('/').to_owned() })
    }

    fn at(&self, path: &str) -> Result<Path> {
        check_path(path)?;
        Ok(Path::from(format!("{}{path}", self.prefix)))
    }

    async fn head(&self, path: &str) -> Result<Option<u64>> {
        match self.bucket.head(&self.at(path)?).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(path, error)),
        }
    }

    /// The error of a call for which the bucket alone has to be there.
    fn failed_at_bucket(&self, path: &str, error: object_store::Error) -> Error {
        // A list says it in the answer's text alone.
        let is_absent = |text: &str| text.contains("NoSuchBucket") || text.contains("ContainerNotFound");
        if matches!(error, object_store::Error::NotFound { .. }) || is_absent(&error.to_string()) {
            let message = format!("no such bucket, make it first repository={}", self.place);
            return Error::new(ErrorKind::NotFound, message);
        }
        self.failed(path, error)
    }

    fn failed(&self, path: &str, error: object_store::Error) -> Error {
        use object_store::Error as Cloud;
        let kind = match &error {
            Cloud::NotFound { .. } => return not_found(path),
            Cloud::PermissionDenied { .. } | Cloud::Unauthenticated { .. } => ErrorKind::Denied,
            Cloud::NotSupported { .. } | Cloud::NotImplemented { .. } => ErrorKind::Unsupported,
            Cloud::InvalidPath { .. } | Cloud::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Retriable,
        };
        let what = if path.is_empty() { self.place.clone() } else { format!("{}/{path}", self.place) };
        // Its text has the server's whole answer, in lines.
        let said: String = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Error::new(kind, format!("bucket did not do what was asked path={what}: {said:.400}"))
    }
}

/// Whether the first of these variables that is set is the URL of an endpoint that is not encrypted.
fn endpoint(variables: &[&str]) -> bool {
    let found = variables.iter().find_map(|variable| std::env::var(variable).ok());
    found.is_some_and(|url| url.to_ascii_lowercase().starts_with("http://"))
}

impl ObjectStore for BucketObjects {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn put_if_absent<'a>(&'a self, path: &'a str, parts: Vec<Bytes>) -> BoxFuture<'a, Result<Put>> {
        async move {
            let parts = PutPayload::from_iter(parts.into_iter().filter(|part| !part.is_empty()));
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match self.bucket.put_opts(&self.at(path)?, parts, options).await {
                Ok(_) => Ok(Put::Created),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    // Also said while another put is under way, which may fail.
                    match self.size(path).await? {
                        Some(_) => Ok(Put::Present),
                        None => Err(Error::new(ErrorKind::Retriable, format!("another put is under way path={path}"))),
                    }
                }
                Err(error) => Err(self.failed_at_bucket(path, error)),
            }
        }
        .boxed()
    }

    fn get<'a>(&'a self, path: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        async move {
            let at = self.at(path)?;
            let wanted = match range.end {
                u64::MAX => GetRange::Offset(range.start),
                end => GetRange::Bounded(range.start..end),
            };
            let options = GetOptions { range: Some(wanted), ..GetOptions::default() };
            let got = match self.bucket.get_opts(&at, options).await {
                Ok(got) => got.bytes().await,
                Err(error) => Err(error),
            };
            match got {
                Ok(bytes) => Ok(bytes),
                Err(error @ object_store::Error::NotFound { .. }) => Err(self.failed(path, error)),
                // A bucket has no range that begins beyond the end, and none of what is empty.
                Err(error) => match self.bucket.head(&at).await {
                    Ok(found) if found.size <= range.start => Ok(Bytes::new()),
                    _ => Err(self.failed(path, error)),
                },
            }
        }
        .boxed()
    }

    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        self.head(path).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Listed>> {
        let below = format!("{}{prefix}", self.prefix);
        let below = (!below.is_empty()).then(|| Path::from(below.trim_end_matches('/')));
        let listed = self.bucket.list(below.as_ref()).map(move |found| match found {
            Ok(found) => {
                let path = found.location.as_ref().strip_prefix(self.prefix.as_str()).unwrap_or_default().to_owned();
                Ok((path, found.size))
            }
            Err(error) => Err(self.failed_at_bucket(prefix, error)),
        });
        // What has another name than an object can have is none.
        let ours = listed.try_filter_map(|(path, bytes)| async move {
            Ok(check_path(&path).is_ok().then_some(Listed { path, bytes }))
        });
        ours.boxed()
    }

    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            match self.bucket.delete(&self.at(path)?).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.failed(path, error)),
            }
        }
        .boxed()
    }
}

/// Requests over our own TLS.
#[derive(Clone, Debug)]
struct Http(HyperClient<HttpsConnector<Connector>, HttpRequestBody>);

impl Http {
    fn new() -> Result<Self> {
        let mut connector = Connector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::of_system()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = HyperClient::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Self(client))
    }
}

impl HttpConnector for Http {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Http {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> BoxFuture<'b, Result<HttpResponse, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            let sending = Duration::from_secs(request.body().content_length() as u64 / LEAST_RATE);
            let answer = tokio::time::timeout(ANSWER_TIMEOUT + sending, self.0.request(request)).await;
            let answer = answer.map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?.map_err(|error| {
                let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
                HttpError::new(kind, error)
            })?;
            let (parts, body) = answer.into_parts();
            let frames = futures::stream::try_unfold(body, |mut body| async move {
                let late = |late| HttpError::new(HttpErrorKind::Timeout, late);
                match tokio::time::timeout(ANSWER_TIMEOUT, body.frame()).await.map_err(late)? {
                    None => Ok(None),
                    Some(Ok(frame)) => Ok(Some((frame, body))),
                    Some(Err(error)) => Err(HttpError::new(HttpErrorKind::Interrupted, error)),
                }
            });
            let body = HttpResponseBody::new(http_body_util::StreamBody::new(frames));
            Ok(HttpResponse::from_parts(parts, body))
        }
        .boxed()
    }
}
