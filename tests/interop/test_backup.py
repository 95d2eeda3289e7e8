"""Backups of a real Kafka: what a cluster keeps besides records."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from program import ok
from servers import KafkaServer, OttlaServer, kafka, peers

#: Access rules and a user by librdkafka: [bootstrap].
WRITE = """
import sys
from confluent_kafka.admin import (
    AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType,
    ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion,
)
admin = AdminClient({"bootstrap.servers": sys.argv[1]})
rules = [
    AclBinding(ResourceType.TOPIC, "orders", ResourcePatternType.LITERAL, "User:alice", "*", AclOperation.READ,
               AclPermissionType.ALLOW),
    AclBinding(ResourceType.GROUP, "bill", ResourcePatternType.PREFIXED, "User:alice", "127.0.0.1", AclOperation.READ,
               AclPermissionType.DENY),
]
for done in admin.create_acls(rules).values():
    done.result(30)
credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 8192)
for done in admin.alter_user_scram_credentials(
    [UserScramCredentialUpsertion("alice", credential, b"a secret that no backup has")]
).values():
    done.result(30)
"""

#: A line for each: [bootstrap].
READ = """
import sys
from confluent_kafka.admin import (
    AclBindingFilter, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType,
)
admin = AdminClient({"bootstrap.servers": sys.argv[1]})
everything = AclBindingFilter(ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY,
                              AclPermissionType.ANY)
for rule in sorted(map(str, admin.describe_acls(everything).result(30))):
    print(rule)
for user, described in admin.describe_user_scram_credentials().result(30).items():
    for info in described.scram_credential_infos:
        print(user, "SCRAM", info.mechanism, info.iterations)
"""


@pytest.fixture(scope="module", autouse=True)
def available() -> None:
    for why in (KafkaServer.missing(), OttlaServer.missing(), peers.missing("python")):
        if why:
            pytest.skip(why)


def driver(script: str, *arguments: str) -> list[str]:
    return [str(peers.python()), "-c", script, *arguments]


def tool(name: str, *arguments: str) -> str:
    done = subprocess.run(
        kafka.java(name, list(arguments), options=kafka.TOOL_OPTIONS),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
    return done.stdout


def secured(home: Path) -> kafka.KafkaBroker:
    """A broker that keeps access rules, and lets everybody who does not log in do everything."""
    config = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
    }
    return kafka.KafkaBroker(home, 1, config, options=kafka.SHORT_LIVED)


def rules(bootstrap: str) -> list[str]:
    """The access rules and users that librdkafka reads."""
    done = subprocess.run(driver(READ, bootstrap), check=True, timeout=60, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()


def test_access_rules_quotas_and_share_groups_are_kept_and_come_back(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    with secured(tmp_path / "source") as broker:
        bootstrap = broker.bootstrap_servers
        ok("topics", bootstrap, "create", "orders")
        ok("produce", bootstrap, "orders", "--lines", given=b"".join(b"%d\n" % n for n in range(100)))
        subprocess.run(driver(WRITE, bootstrap), check=True, timeout=60)
        configure = ["--bootstrap-server", bootstrap, "--alter"]
        quota = ["--entity-type", "users", "--entity-name", "alice", "--add-config", "request_percentage=12.5"]
        tool("kafka.admin.ConfigCommand", *configure, *quota)
        share = ["--entity-type", "groups", "--entity-name", "sharers", "--add-config"]
        tool("kafka.admin.ConfigCommand", *configure, *share, "share.auto.offset.reset=earliest")
        shared = ["--bootstrap-server", bootstrap, "--topic", "orders", "--group", "sharers", "--max-messages", "60"]
        assert len(tool("org.apache.kafka.tools.consumer.ConsoleShareConsumer", *shared).split()) == 60
        wanted = rules(bootstrap)
        assert len(wanted) == 3, wanted
        ok("backup", bootstrap, repository)

    with secured(tmp_path / "target") as broker:
        bootstrap = broker.bootstrap_servers
        restored = ok("restore", repository, f"kafka://{bootstrap}", "--with-settings")
        assert "2 access rules, 1 quota" in restored.err
        assert "password of the SCRAM user alice" in restored.err
        assert rules(bootstrap) == [line for line in wanted if "alice SCRAM" not in line]
        describe = ["--bootstrap-server", bootstrap, "--describe", "--entity-type", "users", "--entity-name", "alice"]
        assert "request_percentage=12.5" in tool("kafka.admin.ConfigCommand", *describe)
        shared = ["--bootstrap-server", bootstrap, "--topic", "orders", "--group", "sharers", "--max-messages", "40"]
        rest = tool("org.apache.kafka.tools.consumer.ConsoleShareConsumer", *shared).split()
        assert [int(value) for value in rest] == list(range(60, 100)), "it goes on where it stood"
