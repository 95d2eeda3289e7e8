"""Backups of a real Kafka: what a cluster keeps besides records."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from program import ok
from servers import KafkaServer, OttlaServer, kafka, peers

#: Access rules and a user by librdkafka: [bootstrap].
ADMIN = """
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


def test_access_rules_users_quotas_and_share_groups_are_kept(tmp_path: Path) -> None:
    authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    config = {
        "authorizer.class.name": authorizer,
        "super.users": "User:ANONYMOUS",
        "group.share.initialize.retry.interval.ms": "500",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
    }
    with kafka.KafkaBroker(tmp_path / "kafka", 1, config, options=kafka.SHORT_LIVED) as broker:
        bootstrap = broker.bootstrap_servers
        ok("topics", bootstrap, "create", "orders")
        ok("produce", bootstrap, "orders", "--lines", given=b"".join(b"%d\n" % n for n in range(100)))
        subprocess.run(driver(ADMIN, bootstrap), check=True, timeout=60)
        quota = ["--entity-type", "users", "--entity-name", "alice", "--add-config", "producer_byte_rate=1048576.5"]
        tool("kafka.admin.ConfigCommand", "--bootstrap-server", bootstrap, "--alter", *quota)
        share = ["--entity-type", "groups", "--entity-name", "sharers", "--add-config", "share.auto.offset.reset=earliest"]
        tool("kafka.admin.ConfigCommand", "--bootstrap-server", bootstrap, "--alter", *share)
        read = tool(
            "org.apache.kafka.tools.consumer.ConsoleShareConsumer",
            *("--bootstrap-server", bootstrap, "--topic", "orders", "--group", "sharers", "--max-messages", "100"),
        )
        assert len(read.split()) == 100
        ok("backup", bootstrap, tmp_path / "repository")
        (kept,) = ok("snapshots", tmp_path / "repository", "--contents", "--json").lines

    reads = {
        "resource_type": 2, "resource_name": "orders", "pattern_type": 3,
        "principal": "User:alice", "host": "*", "operation": 3, "permission_type": 3,
    }  # fmt: skip
    denied = reads | {
        "resource_type": 3, "resource_name": "bill", "pattern_type": 4, "host": "127.0.0.1", "permission_type": 2
    }  # fmt: skip
    assert kept["cluster"] == {
        "acls": [reads, denied],
        "scram_users": [{"user": "alice", "mechanism": 2, "iterations": 8192}],
        "quotas": [{"entity": [["user", "alice"]], "name": "producer_byte_rate", "value": "1048576.5"}],
        "unreadable": [],
    }
    (group,) = kept["groups"]
    assert (group["group"], group["kind"]) == ("sharers", "share")
    assert [(offset["topic"], offset["offset"]) for offset in group["offsets"]] == [("orders", 100)]
