"""Ottla's client at a Kafka as real ones are: TLS, certificates of our own, SASL; and what a wrong setting is told."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ottla
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from servers import ROOT, KafkaServer, kafka
from servers import ottla as program

# ruff: noqa: S105, S106 (passwords of brokers that live for a test)
PASSWORD = 'alice\'s "secret", with = and ,'
KEY_PASSWORD = "opens the key"
REAUTHENTICATION_MS = 3000

Options = dict[str, Any]


def private_key(certificate: trustme.LeafCert, password: str | None = None) -> bytes:
    """The key as Kafka reads it (PKCS 8), encrypted if there is a password."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password.encode())
    written: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return written


def store(path: Path, certificate: trustme.LeafCert) -> str:
    chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
    path.write_bytes(private_key(certificate) + chain)
    return str(path)


def revocations(authority: trustme.CA, certificates: list[trustme.LeafCert], *, days: int) -> bytes:
    """What the authority says it has revoked, as of now and for so many days."""
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    now = dt.datetime.now(dt.UTC) - dt.timedelta(days=30)
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    made = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject).last_update(now).next_update(until)
    made = made.add_extension(x509.CRLNumber(1), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    made = made.add_extension(identifier, critical=False)
    for certificate in certificates:
        number = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).serial_number
        made = made.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now).build()
        )
    written: bytes = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]
    return written


class Secure:
    """A broker with a listener of each kind."""

    def __init__(self, home: Path) -> None:
        authority, stranger = trustme.CA(), trustme.CA()
        self.ca, self.other_ca = str(home / "ca.pem"), str(home / "other-ca.pem")
        authority.cert_pem.write_to_path(self.ca)
        stranger.cert_pem.write_to_path(self.other_ca)
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        server = authority.issue_cert("localhost")
        good = store(home / "good.pem", server)
        self.crls = {}
        for name, list_ in {
            "nothing revoked": revocations(authority, [], days=1),
            "revoked": revocations(authority, [server], days=1),
            "out of date": revocations(authority, [], days=-1),
            "another issuer": revocations(stranger, [], days=1),
            "no list": authority.cert_pem.bytes(),
        }.items():
            self.crls[name] = str(home / f"{name}.crl")
            Path(self.crls[name]).write_bytes(list_)
        expired = store(
            home / "expired.pem",
            authority.issue_cert("localhost", not_before=yesterday - dt.timedelta(days=30), not_after=yesterday),
        )
        elsewhere = store(home / "elsewhere.pem", authority.issue_cert("kafka.example"))
        mine = authority.issue_cert("client.example")
        self.certificate, self.key = str(home / "client.pem"), str(home / "client.key")
        Path(self.certificate).write_bytes(b"".join(part.bytes() for part in mine.cert_chain_pems))
        Path(self.key).write_bytes(private_key(mine, KEY_PASSWORD))
        module = "org.apache.kafka.common.security"
        plain = f"{module}.plain.PlainLoginModule required user_alice={json.dumps(PASSWORD)};"
        config = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": good,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca,
            "listener.name.expired.ssl.keystore.location": expired,
            "listener.name.elsewhere.ssl.keystore.location": elsewhere,
            "listener.name.mutual.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "connections.max.reauth.ms": str(REAUTHENTICATION_MS),
        }
        for listener in ("login", "secure"):
            # In a file of properties a backslash escapes.
            config[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain.replace("\\", "\\\\")
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                config[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = (
                    f"{module}.scram.ScramLoginModule required;"
                )
        self.broker = kafka.KafkaBroker(
            home / "kafka",
            config=config,
            listeners={
                "TLS": "SSL",
                "EXPIRED": "SSL",
                "ELSEWHERE": "SSL",
                "MUTUAL": "SSL",
                "LOGIN": "SASL_PLAINTEXT",
                "SECURE": "SASL_SSL",
            },
            scram={"bob": "bobs-secret"},
        )

    def at(self, listener: str) -> str:
        """A listener's address."""
        address: str = self.broker.bootstrap_servers if listener == "PLAINTEXT" else self.broker.listener(listener)
        return address

    def tls(self, **more: Any) -> Options:
        return {"security_protocol": "SSL", "ssl_cafile": self.ca, **more}

    def login(self, mechanism: str, **more: Any) -> Options:
        name, password = ("alice", PASSWORD) if mechanism == "PLAIN" else ("bob", "bobs-secret")
        login = {"sasl_mechanism": mechanism, "sasl_plain_username": name, "sasl_plain_password": password}
        return {"security_protocol": "SASL_PLAINTEXT", **login, **more}

    def both(self, mechanism: str, **more: Any) -> Options:
        return {**self.login(mechanism), "security_protocol": "SASL_SSL", "ssl_cafile": self.ca, **more}

    def mutual(self) -> Options:
        return self.tls(ssl_certfile=self.certificate, ssl_keyfile=self.key, ssl_password=KEY_PASSWORD)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    if why := KafkaServer.missing():
        pytest.skip(why)
    made = Secure(tmp_path_factory.mktemp("secure"))
    with made.broker:
        yield made


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def round_trip(bootstrap: str, topic: str, options: Options, count: int = 50) -> None:
    values = [f"value {number}".encode() for number in range(count)]
    with ottla.KafkaProducer(bootstrap_servers=bootstrap, **options) as producer:
        for future in [producer.send(topic, value) for value in values]:
            future.get(30)
    with ottla.KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=f"g-{topic}",
        auto_offset_reset="earliest",
        consumer_timeout_ms=30_000,
        **options,
    ) as consumer:
        assert [next(consumer).value for _ in values] == values


@pytest.mark.parametrize(
    ("listener", "kind", "mechanism"),
    [
        ("TLS", "tls", None),
        ("MUTUAL", "mutual", None),
        ("LOGIN", "login", "PLAIN"),
        ("LOGIN", "login", "SCRAM-SHA-256"),
        ("LOGIN", "login", "SCRAM-SHA-512"),
        ("SECURE", "both", "PLAIN"),
        ("SECURE", "both", "SCRAM-SHA-256"),
        ("SECURE", "both", "SCRAM-SHA-512"),
    ],
)
def test_records_travel_over_each_kind_of_connection(
    secure: Secure, topic: str, listener: str, kind: str, mechanism: str | None
) -> None:
    options = getattr(secure, kind)(*([mechanism] if mechanism else []))
    round_trip(secure.at(listener), topic, options)


def test_a_name_that_differs_is_taken_when_it_is_not_to_be_checked(secure: Secure, topic: str) -> None:
    round_trip(secure.at("ELSEWHERE"), topic, secure.tls(ssl_check_hostname=False))


def test_a_certificate_that_is_on_no_list_is_taken(secure: Secure, topic: str) -> None:
    round_trip(secure.at("TLS"), topic, secure.tls(ssl_crlfile=secure.crls["nothing revoked"]))


@pytest.mark.parametrize(
    ("crl", "expected"),
    [
        ("revoked", "was revoked"),
        ("out of date", "out of date"),
        ("another issuer", "no list in ssl_crlfile is from the issuer"),
        ("no list", "there is no list in it"),
    ],
)
def test_a_list_of_revocations_never_opens_a_door(secure: Secure, crl: str, expected: str) -> None:
    with pytest.raises((ottla.errors.KafkaError, PermissionError), match=expected):
        ottla.KafkaProducer(bootstrap_servers=secure.at("TLS"), **secure.tls(ssl_crlfile=secure.crls[crl]))


#: listener, options of `Secure`, their arguments, what the error says, whether trying again is of no use
WRONG: dict[str, tuple[str, str, Options, str, bool]] = {
    "another authority": ("TLS", "tls", {"ssl_cafile": "OTHER"}, "not from an authority that is trusted", True),
    "the system's authorities": ("TLS", "tls", {"ssl_cafile": None}, "not from an authority that is trusted", True),
    "an expired certificate": ("EXPIRED", "tls", {}, "has expired", True),
    "another name": ("ELSEWHERE", "tls", {}, "is for another name", True),
    "no certificate of ours": ("MUTUAL", "tls", {}, "want a certificate of ours", True),
    "a wrong password for the key": ("MUTUAL", "mutual", {"ssl_password": "x"}, "ssl_password does not open", True),
    "no such file": ("TLS", "tls", {"ssl_cafile": "/no/such/file"}, "ssl_cafile cannot be used", True),
    "a wrong password": ("LOGIN", "login", {"sasl_plain_password": "x"}, "username=alice", True),
    "a wrong password, SCRAM": (
        "SECURE",
        "both",
        {"sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_username": "bob", "sasl_plain_password": "x"},
        "username=bob",
        True,
    ),
    "plaintext to TLS": ("TLS", "tls", {"security_protocol": "PLAINTEXT"}, "security_protocol", False),
    "TLS to plaintext": ("PLAINTEXT", "tls", {}, "TLS", False),
    "no login": ("LOGIN", "login", {"security_protocol": "PLAINTEXT"}, "sasl_mechanism", False),
    "a login nobody asked for": ("PLAINTEXT", "login", {}, "SASL", True),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_setting_is_told_in_one_line(secure: Secure, what: str) -> None:
    listener, kind, changed, expected, at_once = WRONG[what]
    options = getattr(secure, kind)(*(["PLAIN"] if kind in ("login", "both") else [])) | changed
    if options.get("ssl_cafile") == "OTHER":
        options["ssl_cafile"] = secure.other_ca
    began = time.monotonic()
    with pytest.raises((ottla.errors.KafkaError, PermissionError)) as raised:
        ottla.KafkaConsumer(bootstrap_servers=secure.at(listener), bootstrap_timeout_ms=4000, **options)
    message = str(raised.value)
    assert expected in message
    assert secure.at(listener) in message
    assert "\n" not in message
    assert PASSWORD not in message
    if at_once:
        assert time.monotonic() - began < 3.5, f"tried again, in vain: {message}"


def test_the_wrong_password_has_kafka_pythons_error(secure: Secure) -> None:
    with pytest.raises(ottla.errors.SaslAuthenticationFailedError):
        ottla.KafkaProducer(bootstrap_servers=secure.at("LOGIN"), **secure.login("PLAIN", sasl_plain_password="x"))


def test_a_session_is_renewed_before_it_ends(secure: Secure, topic: str) -> None:
    options = secure.both("SCRAM-SHA-256")
    with ottla.KafkaProducer(bootstrap_servers=secure.at("SECURE"), retries=0, acks=1, **options) as producer:
        end = time.monotonic() + 3 * REAUTHENTICATION_MS / 1000
        count = 0
        while time.monotonic() < end:
            # Without retries a connection that the broker closes at the session's end fails one of these.
            producer.send(topic, b"x").get(20)
            count += 1
            time.sleep(0.02)
    assert count > 50


@pytest.mark.parametrize("style", ["java", "librdkafka", "options"])
def test_a_topic_is_replicated_from_a_secure_cluster(secure: Secure, topic: str, tmp_path: Path, style: str) -> None:
    options = secure.both("SCRAM-SHA-512")
    with ottla.KafkaProducer(bootstrap_servers=secure.at("SECURE"), **options) as producer:
        for number in range(100):
            producer.send(topic, str(number).encode())
    properties = tmp_path / "client.properties"
    arguments = ["--command-config", str(properties)]
    if style == "java":
        properties.write_text(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n"
            "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required"
            ' username="bob" password="bobs-secret";\n'
            f"ssl.truststore.type=PEM\nssl.truststore.location={secure.ca}\n"
        )
    elif style == "librdkafka":
        (tmp_path / "password").write_text("bobs-secret\n")
        properties.write_text(
            "security.protocol=sasl_ssl\nsasl.mechanisms=SCRAM-SHA-512\nsasl.username=bob\n"
            f"sasl.password=file:{tmp_path / 'password'}\nssl.ca.location={secure.ca}\n"
        )
    else:
        pairs = {**options, "sasl_plain_password": "env:SECRET"}
        arguments = [part for name, value in pairs.items() for part in ("-X", f"{name}={value}")]
    run = [str(program()), "--json", "replicate", f"kafka://{secure.at('SECURE')}", str(tmp_path / "replica")]
    done = subprocess.run(
        [*run, "--topics", topic, *arguments],
        env={**os.environ, "SECRET": "bobs-secret"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    with ottla.KafkaConsumer(
        topic, bootstrap_servers=str(tmp_path / "replica"), auto_offset_reset="earliest", consumer_timeout_ms=3000
    ) as consumer:
        assert [record.value for record in consumer] == [str(number).encode() for number in range(100)]


def test_a_replica_says_that_it_was_refused_and_stays_readable(secure: Secure, topic: str, tmp_path: Path) -> None:
    options = secure.both("SCRAM-SHA-512")
    with ottla.KafkaProducer(bootstrap_servers=secure.at("SECURE"), **options) as producer:
        producer.send(topic, b"one")
    run = [str(program()), "replicate", f"kafka://{secure.at('SECURE')}", str(tmp_path / "new"), "--topics", topic]
    pairs = {**options, "sasl_plain_password": "wrong"}
    arguments = [part for name, value in pairs.items() for part in ("-X", f"{name}={value}")]
    for more in ([], ["--follow"]):
        done = subprocess.run([*run, *arguments, *more], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 5, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert not (tmp_path / "new").exists()

    ottla.replicate(secure.at("SECURE"), tmp_path / "replica", topic, **options)
    with ottla.Replica(tmp_path / "replica", secure.at("SECURE"), **pairs) as replica:
        with pytest.raises(ottla.errors.KafkaError, match=r"(?i)authentication"):
            replica.sync()
        replica.follow()
        # A password does not become right by being tried again.
        with pytest.raises(ottla.errors.KafkaError, match=r"(?i)authentication"):
            replica.caught_up(30)
        end = time.monotonic() + 30
        while replica.status().is_following:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "uthentication" in (replica.status().error or "")
        with ottla.KafkaConsumer(
            topic, bootstrap_servers=replica.bootstrap_servers, auto_offset_reset="earliest", consumer_timeout_ms=3000
        ) as consumer:
            assert [record.value for record in consumer] == [b"one"]
