"""Schemas: those of Kubernetes itself, and those of custom resources from folders of CRDs.

Validation is as strict as `kubectl apply --validate=strict`: a field that the schema does not have
is an error, because the API server would drop it in silence.
"""

import base64
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from platecrypt.errors import BadInputError
from platecrypt.manifests.cel import rule_problems
from platecrypt.manifests.model import Finding, Object, dotted
from platecrypt.manifests.reading import load_yaml, yaml_files

RULE = "schema"
# Kubeflow 26.03 is at home between them; what both take will be taken by those in between.
KUBERNETES_VERSIONS = ("1.32", "1.37")
METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
PRESERVE, LIST_TYPE = "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type"
EMBEDDED, INT_OR_STRING = "x-kubernetes-embedded-resource", "x-kubernetes-int-or-string"
RULES = "x-kubernetes-validations"
OBJECT = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {}}
SHOWN = 60  # characters of a value in a message
# Descriptions are most of a CRD, and reading YAML is most of the time that a check takes.
DESCRIPTION = re.compile(r"^( +)description: ?[^\s{].*\n(?:(?:\1 +.*)?\n)*", re.MULTILINE)
NAMES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


class Schemas:
    """Finds and applies the schema of an object.

    Args:
        crds: folders of CustomResourceDefinitions (not searched below); an object must be valid in
            each of them that knows its kind.
        versions: of Kubernetes; an object must be valid in each of them.

    Raises:
        BadInputError: a folder is no folder, or the validator is not installed.
    """

    def __init__(
        self, crds: Sequence[Path] = (), versions: Sequence[str] = KUBERNETES_VERSIONS
    ) -> None:
        self._core = {version: _Core(version) for version in versions}
        self._folders = [_Folder(folder) for folder in crds]
        self.unchecked: set[str] = set()

    @property
    def has_crds(self) -> bool:
        """Whether any folder of CRDs was given."""
        return bool(self._folders)

    def problems(self, item: Object) -> Iterator[Finding]:
        """What the schemas say against an object.

        A kind without a schema is a finding where CRDs were given; else it is kept in `unchecked`.
        """
        where = (item.api_version, item.kind)
        if any(core.knows(*where) for core in self._core.values()):
            found: dict[tuple[str, str], str] = {}
            for version, core in self._core.items():
                if not core.knows(*where):
                    told = f"Kubernetes {version} has no {item.kind} of {item.api_version}"
                    yield item.finding("apiVersion", RULE, told)
                    continue
                for path, message in core.problems(*where, item.document):
                    found.setdefault((path, message), version)
            for path, message in found:
                yield item.finding(path, RULE, message)
            return
        if any(core.has_group(item.group) for core in self._core.values()):
            told = f"Kubernetes has no {item.kind} of {item.api_version}"
            yield item.finding("apiVersion", RULE, told)
            return
        yield from self._custom(item)

    def _custom(self, item: Object) -> Iterator[Finding]:
        """What the CRDs say against a custom resource."""
        folders = [folder for folder in self._folders if folder.knows(item.group, item.kind)]
        for folder in folders:
            for path, message in folder.problems(item):
                note = f" ({folder.name})" if len(folders) > 1 else ""
                yield item.finding(path, RULE, message + note)
        yield from self._metadata(item)
        if not folders:
            self.unchecked.add(f"{item.kind} ({item.group})")
            if self.has_crds:
                message = f"no schema of {item.api_version} {item.kind} in the CRDs given"
                yield item.finding("apiVersion", RULE, message)

    def fragment(self, api_version: str, kind: str, document: Any) -> Iterator[tuple[str, str]]:
        """Path and message of what is wrong with an object inside of another one."""
        for core in self._core.values():
            if core.knows(api_version, kind):
                yield from core.problems(api_version, kind, document)
                return

    def _metadata(self, item: Object) -> Iterator[Finding]:
        """Metadata of a custom resource: its CRD says nothing of it, Kubernetes does."""
        core = next(iter(self._core.values()))
        for path, message in core.of_definition(METADATA, item.document.get("metadata")):
            yield item.finding(f"metadata.{path}" if path else "metadata", RULE, message)


class _Core:
    """The schemas of one version of Kubernetes."""

    def __init__(self, version: str) -> None:
        try:
            import kubernetes_validate  # type: ignore[import-untyped]
        except ImportError:
            raise BadInputError(
                "schemas need kubernetes-validate: pip install 'platecrypt[manifests]'"
            ) from None
        folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
        file = folder / f"v{version}.0-local-strict" / "_definitions.json"
        if not file.is_file():
            known = sorted(p.name[1:].split(".0-")[0] for p in folder.glob("*-local-strict"))
            raise BadInputError(f"no schemas of Kubernetes {version}; there are {', '.join(known)}")
        self._file = file

    def knows(self, api_version: str, kind: str) -> bool:
        return (api_version, kind) in _definitions(self._file)[1]

    def has_group(self, group: str) -> bool:
        return any(
            version.rpartition("/")[0] == group for version, _ in _definitions(self._file)[1]
        )

    def problems(self, api_version: str, kind: str, document: Any) -> Iterator[tuple[str, str]]:
        return self.of_definition(_definitions(self._file)[1][api_version, kind], document)

    def of_definition(self, name: str, document: Any) -> Iterator[tuple[str, str]]:
        return _told(_core_validator(self._file, name), document)


@cache
def _definitions(file: Path) -> tuple[dict[str, Any], dict[tuple[str, str], str]]:
    """The definitions of a version of Kubernetes, and their names by API version and kind."""
    document = json.loads(file.read_text())
    names = {}
    for name, definition in document["$defs"].items():
        for known in definition.get("x-kubernetes-group-version-kind", []):
            version = f"{known['group']}/{known['version']}".removeprefix("/")
            names[version, known["kind"]] = name
    return document, names


@cache
def _core_validator(file: Path, name: str) -> Any:
    from referencing import Registry, Resource

    document, _ = _definitions(file)
    registry: Any = Registry().with_resource(document["$id"], Resource.from_contents(document))
    return _validator_class()({"$ref": f"{document['$id']}#/$defs/{name}"}, registry=registry)


class _Folder:
    """The CustomResourceDefinitions of a folder; each is read when it is first needed."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise BadInputError(f"--crds {folder}: no such folder")
        self.name = folder.name
        self._files = {}
        for file in yaml_files(folder):
            content = file.read_text()
            group = re.search(r"^  group: [\"']?([\w.-]+)", content, re.MULTILINE)
            kind = re.search(r"^    kind: [\"']?(\w+)", content, re.MULTILINE)
            if group and kind:
                self._files[group[1], kind[1]] = file
        if not self._files:
            raise BadInputError(f"--crds {folder}: holds no CustomResourceDefinition")

    def knows(self, group: str, kind: str) -> bool:
        return (group, kind) in self._files

    def problems(self, item: Object) -> Iterator[tuple[str, str]]:
        versions = _crd(self._files[item.group, item.kind])
        version = item.api_version.rpartition("/")[2]
        if version not in versions:
            served = ", ".join(versions)
            yield "apiVersion", f"{item.kind} has no served version {version}; it has {served}"
            return
        yield from _told(versions[version], item.document)


@cache
def _crd(file: Path) -> dict[str, Any]:
    """A validator for each version of a custom resource that is served."""
    (definition,) = load_yaml(DESCRIPTION.sub("", file.read_text()), str(file))
    validators = {}
    for version in definition["spec"]["versions"]:
        if version.get("served"):
            schema = version["schema"]["openAPIV3Schema"]
            # Every object has them, whatever its schema says; of metadata it may only say more.
            given = schema.get("properties", {})
            metadata = {**given.get("metadata", {}), PRESERVE: True}
            schema["properties"] = {**OBJECT, **given, "metadata": metadata}
            validators[version["name"]] = _validator_class()(schema)
    return validators


@cache
def _validator_class() -> Any:
    """JSON Schema with the words that Kubernetes adds to it."""
    import jsonschema

    base = jsonschema.Draft202012Validator
    return jsonschema.validators.extend(
        base,
        {
            "type": _type,
            "properties": _properties,
            "additionalProperties": _additional,
            "format": _format,
            LIST_TYPE: _list_type,
            RULES: _rules,
        },
    )


def _type(validator: Any, expected: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    from jsonschema import ValidationError

    if value is None and schema.get("nullable"):
        return
    allowed = [expected] if isinstance(expected, str) else list(expected)
    if schema.get(INT_OR_STRING):
        allowed = ["integer", "string"]
    if any(validator.is_type(value, name) for name in allowed):
        return
    wanted = " or ".join(NAMES[name] for name in allowed if name != "null")
    hint = "; quote it" if "string" in allowed and isinstance(value, int | float) else ""
    yield ValidationError(f"{_shown(value)} must be {wanted}{hint}")


def _properties(
    validator: Any, properties: Mapping[str, Any], value: Any, schema: Mapping[str, Any]
) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    for name, inner in properties.items():
        if name in value:
            yield from validator.descend(value[name], inner, path=name, schema_path=name)
    # Only where a type stands; in anyOf and the like a schema says only a part.
    closed = schema.get("type") == "object" and "additionalProperties" not in schema
    if closed and not schema.get(PRESERVE):
        known = set(properties)
        if schema.get(EMBEDDED):
            known |= {"apiVersion", "kind", "metadata"}
        yield from _unknown(value, known)


def _additional(
    validator: Any, allowed: Any, value: Any, schema: Mapping[str, Any]
) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    known = schema.get("properties", {})
    if allowed is False:
        yield from _unknown(value, set(known))
    elif isinstance(allowed, dict):
        for name, inner in value.items():
            if name not in known:
                yield from validator.descend(inner, allowed, path=name)


def _unknown(value: Mapping[str, Any], known: set[str]) -> Iterator[Any]:
    from jsonschema import ValidationError

    for name in value:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1, 0.6)
            remedy = f"did you mean {near[0]}?" if near else "take it out"
            yield ValidationError(f"no such field; {remedy}", path=[name])


def _format(_validator: Any, name: str, value: Any, _schema: Mapping[str, Any]) -> Iterator[Any]:
    from jsonschema import ValidationError

    if name == "byte" and isinstance(value, str):
        try:
            base64.b64decode(value, validate=True)
        except ValueError:
            yield ValidationError("is not base64; write it under stringData")
    if name == "int32" and isinstance(value, int) and not -(2**31) <= value < 2**31:
        yield ValidationError(f"{value} does not fit 32 bits")


def _list_type(_validator: Any, kind: str, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    from jsonschema import ValidationError

    if not isinstance(value, list) or kind == "atomic":
        return
    keys = schema.get("x-kubernetes-list-map-keys", [])
    seen: list[Any] = []
    for index, row in enumerate(value):
        own = [row.get(key) for key in keys] if keys and isinstance(row, dict) else row
        if own in seen:
            what = f"{' '.join(keys)} {_shown(own[0] if len(keys) == 1 else own)}" if keys else own
            yield ValidationError(f"{what} stands there twice", path=[index])
        seen.append(own)


def _rules(_validator: Any, rules: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    from jsonschema import ValidationError

    for message in rule_problems(rules, value, schema):
        yield ValidationError(message)


def _told(validator: Any, document: Any) -> Iterator[tuple[str, str]]:
    """Path and message of each error, the path as people write it."""
    for error in validator.iter_errors(document):
        yield dotted(tuple(error.absolute_path)), _message(error)


def _message(error: Any) -> str:
    kind, wanted = error.validator, error.validator_value
    if kind == "required":
        missing = [name for name in wanted if name not in error.instance]
        return f"{', '.join(missing)} is missing"
    if kind == "enum":
        allowed = ", ".join(str(value) for value in wanted)
        return f"{_shown(error.instance)} must be one of {allowed}"
    if kind == "pattern":
        return f"{_shown(error.instance)} does not match {wanted}"
    if kind in ("anyOf", "oneOf") and error.context:
        reasons = dict.fromkeys(_message(inner) for inner in error.context)
        return f"{_shown(error.instance)} fits none of what is allowed: {'; or '.join(reasons)}"
    return str(error.message) if len(error.message) < 300 else f"{error.message[:300]}…"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
