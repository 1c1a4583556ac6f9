"""The page's files: nothing that a strict policy forbids, and every word in both languages."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import pytest

FOLDER = files("rfs.monitoring").joinpath("dashboard")


def read(name: str) -> str:
    """One of the page's files."""
    return FOLDER.joinpath(name).read_text(encoding="utf-8")


def messages() -> dict[str, dict[str, str]]:
    """The page's words: messages.js is JSON with a comment before it and one assignment."""
    _, _, body = read("messages.js").partition("export const MESSAGES = ")
    found: dict[str, Any] = json.loads(body.rstrip().removesuffix(";"))
    return found


class TestWords:
    def test_both_languages_have_the_same_keys(self) -> None:
        """
        What is said in one language is said in the other.
        """
        assert messages()["en"].keys() == messages()["ko"].keys()

    @pytest.mark.parametrize("key", sorted(messages()["en"]))
    def test_is_a_translation(self, key: str) -> None:
        """
        A text has the same placeholders in both languages, and the Korean one is Korean unless it is a name.
        """
        english, korean = messages()["en"][key], messages()["ko"][key]

        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", korean))
        # Percentiles and status classes are signs; each language's button to the other is written in the other.
        if key == "language":
            assert re.search("[가-힣]", english)
        elif key not in {"p50", "p95", "p99", "client_errors"}:
            assert re.search("[가-힣]", korean)
            assert not re.search("[가-힣]", english)

    def test_all_are_used_and_all_used_are_there(self) -> None:
        """
        No text is left over, and none is missing.
        """
        page, code = read("index.html"), read("page.js")
        used = set(re.findall(r'data-i18n="(\w+)"', page)) | set(re.findall(r'say\(\s*"(\w+)"', code))
        known = set(messages()["en"])
        built = {key for key in known for prefix in re.findall(r"say\(`(\w+_)\$\{", code) if key.startswith(prefix)}
        named = {key for key in known for kind in re.findall(r'named\("(\w+)"', code) if key.startswith(f"{kind}_")}
        as_values = {key for key in known if re.search(rf'"{key}"', code)}
        states = {"healthy", "degraded", "live", "paused", "stale", "disconnected", "loading"}

        assert used <= known
        assert known <= used | built | named | as_values | states


class TestPolicy:
    @pytest.mark.parametrize("name", ["page.js", "messages.js"])
    @pytest.mark.parametrize(
        "forbidden",
        [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "srcdoc",
            "javascript:",
        ],
    )
    def test_nothing_is_parsed_as_markup_or_code(self, name: str, forbidden: str) -> None:
        """
        What comes from the service can only become text.
        """
        assert forbidden not in read(name)

    def test_nothing_is_inline(self) -> None:
        """
        The page has no inline script, style or handler, so the policy needs no exception for it.
        """
        page = read("index.html")

        assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
        assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []

    @pytest.mark.parametrize("name", ["index.html", "page.css", "page.js", "messages.js", "icon.svg"])
    def test_nothing_comes_from_elsewhere(self, name: str) -> None:
        """
        Every address is relative, so the page works offline and under any prefix.
        """
        text = read(name).replace("http://www.w3.org/2000/svg", "")

        assert re.findall(r"https?://[^\s\\/]", text) == []
        assert re.findall(r"""(?:href|src)="/|url\(|@import|fetch\(["'`]/""", text) == []

    def test_ids_are_there_once(self) -> None:
        """
        Every element that the code asks for is in the page, once.
        """
        ids = re.findall(r'\bid="([\w-]+)"', read("index.html"))
        asked = set(re.findall(r'\$\("([\w-]+)"\)', read("page.js")))

        assert len(ids) == len(set(ids))
        assert asked <= set(ids)


class TestContrast:
    @pytest.mark.parametrize("theme", [0, 1])
    @pytest.mark.parametrize(
        ("ink", "ground"),
        [
            *((ink, ground) for ink in ("text", "muted", "accent") for ground in ("ground", "surface", "raised")),
            *((ink, "surface") for ink in ("bad", "warn", "good")),
            *((f"{state}", f"{state}-ground") for state in ("bad", "warn", "good")),
            *(("muted", f"{state}-ground") for state in ("bad", "warn")),
            *(("accent", f"{state}-ground") for state in ("bad", "warn")),
        ],
    )
    def test_text_can_be_read(self, ink: str, ground: str, theme: int) -> None:
        """
        Every colour of text has at least 4.5:1 on every ground that it stands on, light and dark (WCAG 2.2 AA).
        """
        colours = {
            name: pair
            for name, *pair in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", read("page.css"))
        }

        lighter, darker = sorted((luminance(colours[ink][theme]), luminance(colours[ground][theme])), reverse=True)

        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
