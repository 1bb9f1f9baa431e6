"""Texts under schemas that a generator makes are valid by an independent validator. The seed is fixed."""

import json
import random
from typing import Any

import jsonschema_rs
import pytest

from warpjet import LLM, SamplingParams, StructuredOutputsParams

SEEDS = range(4)
SCHEMAS_PER_SEED = 25
VALUES = [0, -3, 2.5, True, False, None, "", "a", "naïve", '"quoted"', "line\nbreak", "😀", 2**53, {"a": [None, 1]}, []]
NAMES = ["name", "a b", "naïve", "x-1", "$id2", 'q"uote', "type", "properties", "enum", "const"]
LEAVES: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^[a-z]{2,4}$"},
    {"type": "string", "pattern": r"^\p{L}+\d"},
    {"type": "string", "pattern": "^(foo|bar)$"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "json-pointer", "maxLength": 0},
    {"type": "integer", "minimum": -7, "exclusiveMaximum": 19},
    {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    {"type": "integer", "multipleOf": 3},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5},
    {"type": ["boolean", "null"]},
    {"type": "object"},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {},
]


class Generator:
    """Schemas with definitions, unions, tuples, maps and recursion."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._defs: dict[str, Any] = {}

    def schema(self) -> dict[str, Any]:
        self._defs = {}
        schema = self._node(3)
        return {**schema, "$defs": self._defs} if self._defs else schema

    def _node(self, depth: int) -> dict[str, Any]:
        kinds = ["leaf", "leaf", "values"] + (depth > 0) * ["object", "object", "array", "union", "all", "map", "ref"]
        return getattr(self, "_" + self._random.choice(kinds))(depth - 1)  # type: ignore[no-any-return]

    def _leaf(self, _: int) -> dict[str, Any]:
        return dict(self._random.choice(LEAVES))

    def _values(self, _: int) -> dict[str, Any]:
        values = self._random.sample(VALUES, self._random.randint(1, 5))
        return {"enum": values} if len(values) > 1 else {"const": values[0]}

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._random.sample(NAMES, self._random.randint(1, 4))
        schema: dict[str, Any] = {"type": "object", "properties": {name: self._node(depth) for name in names}}
        schema["required"] = [name for name in names if self._random.random() < 0.7]
        if self._random.random() < 0.3:
            schema["additionalProperties"] = self._random.choice([False, True, {"type": "integer"}])
        return schema

    def _array(self, depth: int) -> dict[str, Any]:
        if self._random.random() < 0.3:
            items = [self._node(depth), self._node(depth)]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}
        least = self._random.randint(0, 2)
        return {"type": "array", "items": self._node(depth), "minItems": least, "maxItems": least + 1}

    def _union(self, depth: int) -> dict[str, Any]:
        if self._random.random() < 0.5:
            return {"anyOf": [self._node(depth) for _ in range(3)]}
        kinds = [{"kind": {"const": kind}, "value": self._node(depth)} for kind in "ab"]
        return {"oneOf": [{"type": "object", "properties": each, "required": ["kind"]} for each in kinds]}

    def _all(self, depth: int) -> dict[str, Any]:
        parts = [{"left": self._node(depth)}, {"right": self._node(depth)}]
        return {"allOf": [{"type": "object", "properties": part, "required": list(part)} for part in parts]}

    def _map(self, depth: int) -> dict[str, Any]:
        if self._random.random() < 0.5:
            return {"type": "object", "additionalProperties": self._node(depth)}
        return {"type": "object", "patternProperties": {"^x_": self._node(depth)}, "additionalProperties": False}

    def _ref(self, depth: int) -> dict[str, Any]:
        name = f"Def{len(self._defs)}"
        self._defs[name] = {}
        if self._random.random() < 0.3:
            more = {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}
            properties = {"value": {"type": "boolean"}, "next": more}
            self._defs[name] = {"type": "object", "properties": properties, "required": ["value"]}
        else:
            self._defs[name] = self._node(depth)
        return {"$ref": f"#/$defs/{name}"}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_written_under_a_schema_is_valid(llm: LLM, seed: int) -> None:
    generator, done = Generator(seed), 0
    schemas = [generator.schema() for _ in range(SCHEMAS_PER_SEED)]
    params = [
        SamplingParams(max_tokens=100, seed=index, structured_outputs=StructuredOutputsParams(json=schema))
        for index, schema in enumerate(schemas)
    ]
    for schema, output in zip(schemas, llm.generate(["Once"] * len(schemas), params, use_tqdm=False), strict=True):
        answer = output.outputs[0]
        assert answer.finish_reason in ("stop", "length"), schema
        if answer.finish_reason == "stop":
            done += 1
            assert jsonschema_rs.validator_for(schema).is_valid(json.loads(answer.text)), (schema, answer.text)
    assert done >= SCHEMAS_PER_SEED // 4
