#!/usr/bin/env python3
"""Writes tests/data/messages.txt: every message in every version, as Kafka's own classes encode it.

    scripts/golden_messages.py            write the file
    scripts/golden_messages.py --check    fail if the file differs from what would be written

A line is a message's name, a version and the bytes in hexadecimal. There are two for each version: one with every field
set, arrays of two elements, and one with as many nulls and empty arrays as there can be. Needs Maven and Java 17.
"""

import argparse
import base64
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import uuid

import generate_messages as generator

TARGET = pathlib.Path(__file__).resolve().parent.parent / "tests/data/messages.txt"

LIBRARIES = [
    "com.fasterxml.jackson.core:jackson-databind:2.17.2",
    "com.fasterxml.jackson.core:jackson-core:2.17.2",
    "com.fasterxml.jackson.core:jackson-annotations:2.17.2",
    "org.slf4j:slf4j-api:1.7.36",
]

JAVA = """
import com.fasterxml.jackson.databind.*;
import java.io.*;
import java.nio.ByteBuffer;
import java.util.HexFormat;
import org.apache.kafka.common.protocol.*;

public class Golden {
    public static void main(String[] arguments) throws Exception {
        var lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] parts = line.split(" ", 4);
            short version = Short.parseShort(parts[2]);
            var read = Class.forName(parts[1] + "JsonConverter").getMethod("read", JsonNode.class, short.class);
            var message = (Message) read.invoke(null, new ObjectMapper().readTree(parts[3]), version);
            ByteBuffer buffer = MessageUtil.toByteBufferAccessor(message, version).buffer();
            byte[] bytes = new byte[buffer.remaining()];
            buffer.get(bytes);
            System.out.println(parts[0] + " " + version + " " + HexFormat.of().formatHex(bytes));
        }
    }
}
"""


def sample(definition, version, full):
    """The message as the JSON that Kafka's converters read."""
    numbers = itertools.count(1)
    shared = {it["name"]: it["fields"] for it in definition.get("commonStructs", [])}

    def inside(text):
        span = generator.versions(text)
        return span is not None and span[0] <= version <= span[1]

    def one(kind, fields):
        number = next(numbers)
        match kind:
            case "bool":
                return number % 2 == 0
            case "int8":
                return number % 127
            case "int16" | "uint16":
                return 1000 + number
            case "int32":
                return 1_000_000 + number
            case "int64":
                return 10**12 + number
            case "float64":
                return number + 0.5
            case "string":
                return f"text {number} \u00fc"
            case "uuid":
                return base64.urlsafe_b64encode(uuid.UUID(int=2**126 + number).bytes).decode().rstrip("=")
            case "bytes" | "records":
                return base64.b64encode(b"bytes %d" % number).decode()
        return struct(fields or shared[kind])

    def value(field):
        kind = field["type"]
        if not full and inside(field.get("nullableVersions")):
            return None
        if kind.startswith("[]"):
            return [one(kind[2:], field.get("fields")) for _ in range(2 if full else 0)]
        return one(kind, field.get("fields"))

    def struct(fields):
        out = {}
        for field in fields:
            if not inside(field.get("versions", field.get("taggedVersions"))):
                continue
            if field.get("taggedVersions") and not full:
                continue
            name = field["name"]
            out[name[0].lower() + name[1:]] = value(field)
        return out

    return struct(definition["fields"])


def java_class(definition):
    if definition["type"] in ("request", "response"):
        return f"org.apache.kafka.common.message.{definition['name']}Data"
    package = "common.message" if definition["type"] == "data" else "coordinator.group.generated"
    return f"org.apache.kafka.{package}.{definition['name']}"


def lines():
    found = generator.definitions()
    names = [name for members in generator.SCHEMAS.values() for name in members]
    for it in found.values():
        if it["type"] in ("request", "response") and it["apiKey"] in generator.APIS:
            names.append(it["name"])
    for name in sorted(names):
        definition = found[name]
        first, last = generator.versions(definition["validVersions"])
        for version in range(first, last + 1):
            for full in (True, False):
                text = json.dumps(sample(definition, version, full))
                yield f"{name} {java_class(definition)} {version} {text}\n"


def encode(text):
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        (folder / "Golden.java").write_text(JAVA)
        for library in LIBRARIES:
            command = ["mvn", "-q", "dependency:copy", f"-Dartifact={library}", f"-DoutputDirectory={folder}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        jars = [generator.jar(name).filename for name in generator.JARS] + [str(it) for it in folder.glob("*.jar")]
        command = ["java", "-cp", ":".join(jars), str(folder / "Golden.java")]
        return subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    text = f"# Messages as Apache Kafka {generator.KAFKA} encodes them; made by scripts/golden_messages.py.\n"
    text += encode("".join(lines()))
    if check:
        same = TARGET.exists() and TARGET.read_text() == text
        print("same" if same else f"{TARGET.name} differs from what Kafka's classes write")
        return int(not same)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
