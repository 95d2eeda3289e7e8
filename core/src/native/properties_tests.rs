use super::*;
use crate::client::config::SecurityProtocol;

fn options(text: &str) -> Result<Options> {
    let file = std::env::temp_dir().join(format!("ottla-properties-{}-{}", std::process::id(), text.len()));
    fs::write(&file, text).unwrap();
    let read = read(&file);
    fs::remove_file(&file).unwrap();
    read
}

#[test]
fn javas_own_file_is_understood() {
    let read = options(
        "# a comment\nsecurity.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n\
         sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\\n  username=\"alice\" \
         password=\"a\\\\\"b c\";\nssl.truststore.type=PEM\nssl.truststore.location=/etc/ca.pem\n\
         ssl.endpoint.identification.algorithm=\nssl.protocol=TLSv1.3\nbootstrap.servers=somewhere:9092\n",
    );
    let config = ClientConfig::from_options(&read.unwrap()).unwrap();
    assert_eq!(config.security_protocol, SecurityProtocol::SaslSsl);
    let credentials = config.credentials().unwrap();
    assert_eq!((credentials.username.as_str(), credentials.password.reveal()), ("alice", "a\"b c"));
    assert_eq!(config.ssl_cafile.as_deref(), Some("/etc/ca.pem"));
    assert!(!config.ssl_check_hostname);
    assert_eq!(config.bootstrap_servers[0].host, "localhost");
}

#[test]
fn librdkafkas_names_are_understood() {
    let read = options("security.protocol=sasl_plaintext\nsasl.mechanisms=PLAIN\nsasl.username=u\nsasl.password=p\n");
    assert_eq!(ClientConfig::from_options(&read.unwrap()).unwrap().credentials().unwrap().username, "u");
}

#[test]
fn what_cannot_be_done_is_said() {
    let error = options("ssl.truststore.type=JKS\nssl.truststore.location=/a.jks\n").unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.message().contains("PEM"), "{error}");
    let error = options("sasl.jaas.config=com.sun.security.auth.module.Krb5LoginModule required;\n").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn passwords_may_stand_elsewhere() {
    let file = std::env::temp_dir().join(format!("ottla-password-{}", std::process::id()));
    fs::write(&file, "secret\n").unwrap();
    assert_eq!(resolve("sasl.password", &format!("file:{}", file.display())).unwrap(), "secret");
    fs::remove_file(&file).unwrap();
    assert_eq!(resolve("sasl.password", "plain").unwrap(), "plain");
    assert_eq!(resolve("x", "env:PATH").unwrap(), std::env::var("PATH").unwrap());
    for missing in ["env:OTTLA_NO_SUCH_VARIABLE", "file:/no/such/file"] {
        assert_eq!(resolve("sasl.password", missing).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn properties_are_read_as_java_reads_them() {
    let text = "# comment\n! another\n\n  a = 1 \nb:2\nc 3\nd\ne=\\\n   x\\\n   y\nf\\=g\\ h = i\\\\\nj=\\u00e9\\t\\q\nk==l\nm = \\\n\\";
    let expected = [
        ("a", "1 "),
        ("b", "2"),
        ("c", "3"),
        ("d", ""),
        ("e", "xy"),
        ("f=g h", "i\\"),
        ("j", "é\tq"),
        ("k", "=l"),
        ("m", ""),
    ];
    let read = pairs(text);
    let read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(read, expected);
}
