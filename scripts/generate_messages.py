#!/usr/bin/env python3
"""Writes core/src/protocol/messages/ from the message definitions inside Kafka's jars.

    scripts/generate_messages.py            write the files
    scripts/generate_messages.py --check    fail if the files differ from what would be written

Names, types, versions, tags and defaults are taken from the definitions; their descriptions and comments are not.
The jars are fetched with Maven into ~/.cache/ottla (or $OTTLA_CACHE) once; rustfmt must be on the path.
"""

import argparse
import difflib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

KAFKA = "4.4.0"
JARS = ["kafka-clients", "kafka-group-coordinator"]
TARGET = pathlib.Path(__file__).resolve().parent.parent / "core/src/protocol/messages"

APIS = [
    *range(0, 4), *range(8, 34), 35, 36, 37, *range(42, 54), 55, 57, 60, 61, 62, 65, 66, 68, 69, 75, 90, 91,
]  # fmt: skip
SCHEMAS = {
    "ConsumerProtocol": ["ConsumerProtocolSubscription", "ConsumerProtocolAssignment"],
    "GroupMetadata": ["GroupMetadataKey", "GroupMetadataValue"],
    "OffsetCommitRecord": ["OffsetCommitKey", "OffsetCommitValue"],
}

RUST = {
    "bool": ("bool", 1),
    "int8": ("i8", 1),
    "int16": ("i16", 2),
    "uint16": ("u16", 2),
    "int32": ("i32", 4),
    "uint32": ("u32", 4),
    "int64": ("i64", 8),
    "float64": ("f64", 8),
    "uuid": ("Uuid", 16),
    # A length takes a byte at least.
    "string": ("String", 1),
    "bytes": ("Bytes", 1),
    "records": ("Bytes", 1),
}
KEYWORDS = {"type", "match", "ref", "move", "use", "where", "in", "as", "loop"}
LAST = 32767


def jar(name):
    cache = pathlib.Path(os.environ.get("OTTLA_CACHE", pathlib.Path.home() / ".cache/ottla"))
    path = cache / f"{name}-{KAFKA}.jar"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        artifact = f"-Dartifact=org.apache.kafka:{name}:{KAFKA}"
        subprocess.run(["mvn", "-q", "dependency:copy", artifact, f"-DoutputDirectory={cache}"], check=True)
    return zipfile.ZipFile(path)


def definitions():
    found = {}
    for name in JARS:
        with jar(name) as archive:
            for entry in archive.namelist():
                if re.fullmatch(r"common/message/\w+\.json", entry):
                    text = archive.read(entry).decode()
                    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
                    definition = json.loads(text)
                    found[definition["name"]] = definition
    return found


def versions(text):
    """The versions "3", "3-5", "3+" or "none" as an inclusive pair, or None."""
    if text is None or text == "none":
        return None
    first, _, last = text.partition("-")
    if text.endswith("+"):
        return int(text[:-1]), LAST
    return int(first), int(last or first)


def both(a, b):
    if a is None or b is None or max(a[0], b[0]) > min(a[1], b[1]):
        return None
    return max(a[0], b[0]), min(a[1], b[1])


def show(span):
    if span[1] == LAST:
        return f"{span[0]}+"
    return f"{span[0]}-{span[1]}" if span[0] < span[1] else f"{span[0]}"


def snake(name):
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return re.sub(r"([A-Z])([A-Z][a-z])", r"\1_\2", name).lower()


class Field:
    def __init__(self, definition, valid, names):
        self.kafka = definition["type"]
        self.name = snake(definition["name"])
        self.rust_name = f"r#{self.name}" if self.name in KEYWORDS else self.name
        self.tag = definition.get("tag")
        self.tagged = versions(definition.get("taggedVersions"))
        self.declared = versions(definition.get("versions", definition.get("taggedVersions")))
        self.versions = both(self.declared, valid)
        self.nullable = both(versions(definition.get("nullableVersions")), self.versions)
        self.ignorable = definition.get("ignorable", False)
        self.default = definition.get("default")
        self.is_array = self.kafka.startswith("[]")
        self.element = self.kafka[2:] if self.is_array else self.kafka
        self.is_struct = self.element[0].isupper()
        if self.is_struct:
            self.element_rust = names.get(self.element, self.element)
        elif self.element == "int16" and self.name.endswith("error_code") and not self.is_array:
            self.element_rust = "ErrorCode"
        else:
            self.element_rust = RUST[self.element][0]
        inner = f"Vec<{self.element_rust}>" if self.is_array else self.element_rust
        self.rust = f"Option<{inner}>" if self.nullable else inner
        self.nullable_struct = self.nullable is not None and self.is_struct and not self.is_array
        assert self.tagged is None or self.tagged == self.declared, definition
        assert self.tagged is None or not self.nullable_struct, definition
        assert "flexibleVersions" not in definition, definition

    def default_value(self):
        """The default as a Rust expression, or None where it is the type's own."""
        text = self.default
        if self.nullable:
            if text == "null" or self.nullable_struct and text is None:
                return None
            if self.kafka == "records" and text is None:
                return None
            inner = self.plain_default()
            return f"Some({inner or 'Default::default()'})"
        return self.plain_default()

    def plain_default(self):
        text = self.default
        if text is None or text == "" or text == "null":
            return None
        if self.element == "bool":
            return "true" if str(text).lower() == "true" else None
        if self.element == "string":
            return f'"{text}".to_owned()'
        assert not self.is_array and not self.is_struct and self.element not in ("bytes", "records", "uuid"), text
        if self.element == "float64":
            return None if float(text) == 0 else repr(float(text))
        value = int(str(text), 0)
        if value == 0:
            return None
        width = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}.get(self.element)
        value_text = str(value)
        if width and value == 2 ** (width - 1) - 1:
            value_text = f"{self.element_rust}::MAX"
        elif width and value == -(2 ** (width - 1)):
            value_text = f"{self.element_rust}::MIN"
        return f"ErrorCode({value_text})" if self.element_rust == "ErrorCode" else value_text

    def is_default(self):
        """A Rust condition that holds while the field has its default value."""
        value = self.default_value()
        this = f"self.{self.rust_name}"
        if value is None:
            if self.nullable:
                return f"{this}.is_none()"
            if self.is_array or self.element in ("string", "bytes", "records"):
                return f"{this}.is_empty()"
            if self.element == "bool":
                return f"!{this}"
            if self.element == "uuid":
                return f"{this}.is_nil()"
            if self.element_rust == "ErrorCode":
                return f"{this} == ErrorCode::NONE"
            if self.is_struct:
                return f"{this} == {self.element_rust}::default()"
            return f"{this} == 0.0" if self.element == "float64" else f"{this} == 0"
        if value == "true":
            return this
        if value.startswith("Some("):
            empty = "is_empty" if self.is_array or self.element in ("string", "bytes", "records") else None
            assert empty and "default()" in value, (self.name, value)
            return f"{this}.as_ref().is_some_and(|it| it.{empty}())"
        if value.endswith(".to_owned()"):
            return f"{this} == {value.removesuffix('.to_owned()')}"
        return f"{this} == {value}"

    def doc(self):
        parts = [f"`{self.kafka}`", f"versions {show(self.declared)}"]
        if self.tag is not None:
            parts.append(f"tag {self.tag}")
        if self.nullable:
            parts.append("nullable" if self.nullable == self.versions else f"nullable in {show(self.nullable)}")
        if self.default not in (None, "", "null", 0, "0", False, "false"):
            parts.append(f"default {self.default}")
        return "/// " + ", ".join(parts) + "."


class Struct:
    def __init__(self, name, fields, message, names):
        self.name = name
        self.valid = valid = versions(message["validVersions"])
        self.flexible = versions(message["flexibleVersions"])
        self.fields = [Field(field, valid, names) for field in fields]
        self.fields = [field for field in self.fields if field.versions]


class Module:
    """One Rust file: a request and its response, or a key and its value."""

    def __init__(self, name, messages):
        self.file = snake(name)
        self.messages = messages
        self.structs = []
        seen = {}
        clashing = self.clashes(messages)
        for message in messages:
            side = re.search(r"[A-Z][a-z]+$", message["name"]).group()
            names = {name: side + name for name in clashing}
            collected = []
            self.collect(message["name"], message["fields"], message, names, collected)
            for common in message.get("commonStructs", []):
                self.collect(names.get(common["name"], common["name"]), common["fields"], message, names, collected)
            for struct in collected:
                if struct.name not in seen:
                    self.structs.append(struct)
                    seen[struct.name] = struct

    @staticmethod
    def clashes(messages):
        """Names that stand for different structs in the request and in the response."""

        def strip(value):
            if isinstance(value, dict):
                return {key: strip(it) for key, it in value.items() if key not in ("about", "entityType", "mapKey")}
            return [strip(it) for it in value] if isinstance(value, list) else value

        found, clashing = {}, set()

        def visit(fields):
            for field in fields:
                if "fields" in field:
                    name, body = field["type"].removeprefix("[]"), strip(field["fields"])
                    if found.setdefault(name, body) != body:
                        clashing.add(name)
                    visit(field["fields"])

        for message in messages:
            visit(message["fields"])
            visit([{"type": it["name"], "fields": it["fields"]} for it in message.get("commonStructs", [])])
        return clashing

    def collect(self, name, fields, message, names, out):
        """The struct and those inside it, which exist only where the field that holds them does."""
        out.append(Struct(name, fields, message, names))
        for field in fields:
            if "fields" in field and both(versions(field.get("versions", field.get("taggedVersions"))), out[0].valid):
                inner = field["type"].removeprefix("[]")
                self.collect(names.get(inner, inner), field["fields"], message, names, out)

    def render(self):
        body = []
        for message in self.messages:
            body.append(self.render_message(message))
        for struct in self.structs:
            body.append(self.render_struct(struct))
        code = "\n\n".join(body)
        imports = []
        if re.search(r"\bBytes\b", code):
            imports.append("use bytes::Bytes;\n")
        if re.search(r"\bUuid\b", code):
            imports.append("use uuid::Uuid;\n")
        if imports:
            imports.append("\n")
        if re.search(r"\bErrorCode\b", code):
            imports.append("use crate::protocol::ErrorCode;\n")
        imports.append("use crate::protocol::codec::{Decode, Decoder, Encode, Encoder, Message};\n")
        names = " and ".join(f"`{message['name']}`" for message in self.messages)
        return f"{header()}//! {names}.\n\n{''.join(imports)}\n{code}\n"

    def render_message(self, message):
        first, last = versions(message["validVersions"])
        flexible = versions(message["flexibleVersions"])
        newer = "    const READS_NEWER: bool = true;\n" if message["type"] == "data" else ""
        return (
            f"impl Message for {message['name']} {{\n"
            f'    const NAME: &\'static str = "{message["name"]}";\n'
            f"    const VERSIONS: (i16, i16) = ({first}, {last});\n"
            f"    const FLEXIBLE: i16 = {flexible[0] if flexible else 'i16::MAX'};\n"
            f"{newer}}}"
        )

    def minimum(self, struct, version, flexible, depth=0):
        """The fewest bytes that the struct takes in `version`."""
        size = 1 if flexible else 0
        for field in struct.fields:
            if field.tag is not None or not field.versions[0] <= version <= field.versions[1]:
                continue
            if field.is_array or field.nullable_struct:
                size += 1 if flexible or field.nullable_struct else 4
            elif field.is_struct:
                inner = next(it for it in self.structs if it.name == field.element_rust)
                size += self.minimum(inner, version, flexible, depth + 1)
            elif field.element in ("string", "bytes", "records"):
                size += 1 if flexible else 2 if field.element == "string" else 4
            else:
                size += RUST[field.element][1]
        return size

    def render_struct(self, struct):
        flexible, valid = struct.flexible, struct.valid
        used = both(self.span_of_use(struct), valid) or valid
        sizes = [
            self.minimum(struct, version, bool(flexible) and version >= flexible[0])
            for version in range(used[0], used[1] + 1)
        ]
        minimum = min(sizes)
        is_message = any(struct.name == it["name"] for it in self.messages)
        assert minimum > 0 or is_message, (self.file, struct.name, used)

        plain = all(field.default_value() is None for field in struct.fields)
        derives = "Clone, Debug, Default, PartialEq" if plain else "Clone, Debug, PartialEq"
        versions_text = show((used[0], used[1]))
        out = [f"/// `{struct.name}`, versions {versions_text}."]
        out.append(f"#[derive({derives})]\npub struct {struct.name} {{")
        for field in struct.fields:
            out.append(f"    {field.doc()}\n    pub {field.rust_name}: {field.rust},")
        out.append("}\n")
        if not plain:
            out.append(f"impl Default for {struct.name} {{\n    fn default() -> Self {{\n        Self {{")
            for field in struct.fields:
                out.append(f"            {field.rust_name}: {field.default_value() or 'Default::default()'},")
            out.append("        }\n    }\n}\n")

        tags = [field for field in struct.fields if field.tag is not None]
        ordinary = [field for field in struct.fields if field.tag is None]
        write, read = [], []
        for condition, group in self.grouped(ordinary, used):
            writes = "".join(self.write(field, used) for field in group)
            reads = "".join(self.read(field, used) for field in group)
            if condition:
                writes, reads = f"if {condition} {{\n{writes}}}", f"if {condition} {{\n{reads}}}"
                checks = "".join(
                    f'e.require_default({field.is_default()}, "{field.name}");\n' for field in group if not field.ignorable
                )
                if checks:
                    writes += f" else {{\n{checks}}}"
                writes, reads = writes + "\n", reads + "\n"
            write.append(writes)
            read.append(reads)
        if flexible and flexible[0] <= used[1]:
            if tags:
                write_tags = ", ".join(
                    f"({field.tag}, {self.tag_present(field, used, flexible)}, &self.{field.rust_name})" for field in tags
                )
                write.append(f"e.write_tagged(&[{write_tags}], version);\n")
                arms = "".join(
                    f"{field.tag} => this.{field.rust_name} = Decode::read(d, version),\n" for field in tags
                )
                read.append(
                    f"d.read_tagged(&mut |d, tag| {{\nmatch tag {{\n{arms}_ => return false,\n}}\ntrue\n}});\n"
                )
                for field in tags:
                    if not field.ignorable:
                        since = max(field.versions[0], flexible[0])
                        if since > used[0]:
                            write.append(
                                f'e.require_default(version >= {since} || {field.is_default()}, "{field.name}");\n'
                            )
            else:
                write.append("e.write_no_tagged();\n")
                read.append("d.skip_tagged();\n")
        body_write, body_read = "".join(write), "".join(read)
        version_write = "version" if re.search(r"\bversion\b", body_write) else "_"
        version_read = "version" if re.search(r"\bversion\b", body_read) else "_"
        if not body_write:
            e, d = "_", "_"
        else:
            e, d = "e", "d"
        out.append(
            f"impl Encode for {struct.name} {{\n"
            f"    fn write(&self, {e}: &mut Encoder, {version_write}: i16) {{\n{body_write}    }}\n}}\n"
        )
        if re.search(r"\bthis\b", body_read):
            body_read = f"let mut this = Self::default();\n{body_read}this\n"
        else:
            body_read += "Self::default()\n"
        out.append(
            f"impl Decode for {struct.name} {{\n"
            f"    const MIN_SIZE: usize = {minimum};\n\n"
            f"    fn read({d}: &mut Decoder, {version_read}: i16) -> Self {{\n{body_read}    }}\n}}\n"
        )
        return "\n".join(out).rstrip()

    def span_of_use(self, struct):
        """The versions in which some field holds the struct, all the way up; all of them for a message."""
        if any(struct.name == it["name"] for it in self.messages):
            return struct.valid
        first, last = LAST, -1
        for outer in self.structs:
            for field in outer.fields:
                if field.is_struct and field.element_rust == struct.name:
                    span = both(field.versions, self.span_of_use(outer))
                    if span:
                        first, last = min(first, span[0]), max(last, span[1])
        return first, last

    @staticmethod
    def condition(span, used):
        """The Rust condition that holds in `span`, given that the version is in `used`."""
        first, last = span[0] > used[0], span[1] < used[1]
        if first and last:
            if span[0] == span[1]:
                return f"version == {span[0]}"
            return f"({span[0]}..={span[1]}).contains(&version)"
        return f"version >= {span[0]}" if first else f"version <= {span[1]}" if last else ""

    def grouped(self, fields, used):
        """Neighbouring fields that are there in the same versions."""
        groups = []
        for field in fields:
            condition = self.condition(field.versions, used)
            if groups and groups[-1][0] == condition:
                groups[-1][1].append(field)
            else:
                groups.append((condition, [field]))
        return groups

    def null_condition(self, field, used):
        """Where null may be written, when not in all versions of the field; else an empty string."""
        if not field.nullable or field.nullable_struct:
            return ""
        return self.condition(field.nullable, both(field.versions, used))

    def write(self, field, used):
        this = f"self.{field.rust_name}"
        if field.nullable_struct:
            return f"e.write_nullable({this}.as_ref(), version);\n"
        condition = self.null_condition(field, used)
        check = f'e.require({condition} || {this}.is_some(), "{field.name}");\n' if condition else ""
        return f"{check}{this}.write(e, version);\n"

    def read(self, field, used):
        this = f"this.{field.rust_name}"
        if field.nullable_struct:
            return f"{this} = d.read_nullable(version);\n"
        condition = self.null_condition(field, used)
        check = f"d.require({condition} || {this}.is_some());\n" if condition else ""
        return f"{this} = Decode::read(d, version);\n{check}"

    def tag_present(self, field, used, flexible):
        condition = self.condition(both(field.versions, used), (max(used[0], flexible[0]), used[1]))
        default = field.is_default()
        if " == " in default:
            present = default.replace(" == ", " != ", 1)
        elif default.endswith(".is_none()"):
            present = default.replace(".is_none()", ".is_some()")
        else:
            present = default.removeprefix("!") if default[0] == "!" else f"!{default}"
        return f"{condition} && {present}" if condition else present


def header():
    return (
        f"// Generated by scripts/generate_messages.py from the definitions in Apache Kafka {KAFKA}; do not edit.\n"
    )


def generate():
    """The files as a dictionary of name to text."""
    found = definitions()
    requests = {it["apiKey"]: it for it in found.values() if it["type"] == "request"}
    modules, files, table = [], {}, []
    for key in APIS:
        request = requests[key]
        base = request["name"].removesuffix("Request")
        response = found[base + "Response"]
        assert response["apiKey"] == key and versions(response["validVersions"]) == versions(request["validVersions"])
        assert request["flexibleVersions"] == response["flexibleVersions"]
        modules.append(Module(base, [request, response]))
        table.append((key, base))
    for name, members in SCHEMAS.items():
        modules.append(Module(name, [found[member] for member in members]))
    for module in modules:
        files[module.file + ".rs"] = module.render()
    mods = "".join(f"pub mod {module.file};\n" for module in sorted(modules, key=lambda it: it.file))
    uses = "".join(
        f"pub use {module.file}::{{{', '.join(it['name'] for it in module.messages)}}};\n"
        for module in sorted(modules, key=lambda it: it.file)
    )
    apis = "".join(api_line(key, base) for key, base in table)
    files["mod.rs"] = (
        f"{header()}//! Requests and responses, and the schemas of records that Kafka keeps for groups.\n//!\n"
        "//! A module holds a request, its response and their parts. Fields have Kafka's names, types and defaults; a field\n"
        "//! that a version does not have is left at its default, and refused by `encode` if it says something else and\n"
        "//! Kafka does not call it ignorable.\n\n"
        "// What a version does not have stays as it was; a field may be read, tagged, or absent.\n"
        "#![allow(clippy::field_reassign_with_default)]\n\n"
        f"{mods}\n{uses}\nuse super::api::apis;\n\napis! {{\n{apis}}}\n"
    )
    return {name: rustfmt(text) for name, text in files.items()}


def api_line(key, base):
    start, end = f"    {key} {snake(base).upper()} {base}(", f"{base}Request, {base}Response"
    line = f"{start}{end}),\n"
    # rustfmt does not wrap what is inside a macro.
    return line if len(line) <= 121 else f"{start}\n        {end}\n    ),\n"


def rustfmt(text):
    command = ["rustfmt", "--edition", "2024", "--emit", "stdout", "--config-path", str(TARGET.parents[3])]
    with tempfile.TemporaryDirectory() as directory:
        # From standard input rustfmt does not look for the modules that the text names.
        done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=directory, check=False)
    if done.returncode != 0:
        sys.exit(f"rustfmt: {done.stderr}\n{text}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    files = generate()
    there = {path.name: path.read_text() for path in TARGET.glob("*.rs")}
    if check:
        for name in sorted(files.keys() | there.keys()):
            before, after = there.get(name, "").splitlines(True), files.get(name, "").splitlines(True)
            sys.stdout.writelines(difflib.unified_diff(before, after, f"committed/{name}", f"generated/{name}"))
        return int(files != there)
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in there.keys() - files.keys():
        (TARGET / name).unlink()
    for name, text in files.items():
        if there.get(name) != text:
            (TARGET / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
