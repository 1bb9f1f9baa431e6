"""Chat messages and tools in the OpenAPI document. What is wrong with them is told by warpjet.text.messages and
warpjet.text.tools."""

from typing import Any

_TEXT_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}},
}
_CONTENT = {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": _TEXT_PART}]}
MESSAGES = {
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {"role": {"type": "string", "minLength": 1}, "content": _CONTENT},
    }
}
_FUNCTION: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-zA-Z0-9_.:/-]{1,128}$"},
        "description": {"type": "string"},
        "parameters": {"type": "object"},
    },
}
_CUSTOM = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _FUNCTION["properties"]["name"],
        "description": {"type": "string"},
        "format": {
            "anyOf": [
                {"type": "object", "required": ["type"], "properties": {"type": {"enum": ["text"]}}},
                {
                    "type": "object",
                    "required": ["type", "grammar"],
                    "properties": {
                        "type": {"enum": ["grammar"]},
                        "grammar": {
                            "type": "object",
                            "required": ["syntax", "definition"],
                            "properties": {"syntax": {"enum": ["lark", "regex"]}, "definition": {"type": "string"}},
                        },
                    },
                },
            ]
        },
    },
}
TOOLS = {
    "items": {
        "anyOf": [
            {
                "type": "object",
                "required": ["type", "function"],
                "properties": {"type": {"enum": ["function"]}, "function": _FUNCTION},
            },
            {
                "type": "object",
                "required": ["type", "custom"],
                "properties": {"type": {"enum": ["custom"]}, "custom": _CUSTOM},
            },
        ]
    }
}
