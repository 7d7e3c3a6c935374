"""LibreTranslate's API: its clients work with this server. Bodies are JSON or forms, as there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from nmt.data.cleaning import rank_languages
from nmt.data.sentences import Splitter, lines_as_sentences, space_between
from nmt.serve.keys import Keys
from nmt.serve.limits import Limits, Refusal, check_texts
from nmt.serve.models import HowToTranslate, Models, ServedModel, SourceSentence
from nmt.serve.routes import REFUSALS, key_of
from nmt.serve.schemas import MOST_HYPOTHESES

Body = TypeVar("Body", bound="KeyedBody")
_NAMES = """
ar Arabic bg Bulgarian bn Bengali ca Catalan cs Czech da Danish de German el Greek en English eo Esperanto es Spanish
et Estonian eu Basque fa Persian fi Finnish fr French ga Irish gl Galician he Hebrew hi Hindi hr Croatian hu Hungarian
id Indonesian is Icelandic it Italian ja Japanese ko Korean lt Lithuanian lv Latvian mk Macedonian ms Malay mt Maltese
nb Norwegian nl Dutch pl Polish pt Portuguese ro Romanian ru Russian sk Slovak sl Slovenian sq Albanian sr Serbian
sv Swedish sw Swahili ta Tamil th Thai tr Turkish uk Ukrainian ur Urdu vi Vietnamese zh Chinese"""
NAMES = dict(re.findall(r"(\w+) (\w+)", _NAMES))
"""English names of languages; others are called by their code."""


class KeyedBody(BaseModel):
    """The field that every request may have."""

    api_key: str | None = None


class LibreTranslateRequest(KeyedBody):
    """A text or several, paragraphs of any length."""

    q: str | list[str]
    source: str
    """Code of a language, or `auto`."""
    target: str
    format: Literal["text"] = "text"
    alternatives: Annotated[int, Field(ge=0, lt=MOST_HYPOTHESES)] = 0
    """Further translations."""


class LibreDetectRequest(KeyedBody):
    """A text whose language is to be identified."""

    q: str


class LibreLanguage(BaseModel):
    """A language to translate from."""

    code: str
    name: str
    targets: list[str]


class DetectedLanguage(BaseModel):
    """A language that a text may be in."""

    confidence: float
    """In percent."""
    language: str


class LibreTranslation(BaseModel):
    """The translation of each text; fields that were not asked for are left out."""

    translatedText: str | list[str]
    detectedLanguage: DetectedLanguage | list[DetectedLanguage] | None = None
    alternatives: list[str] | list[list[str]] | None = None


def libretranslate_routes(models: Models, limits: Limits, keys: Keys) -> APIRouter:
    """Returns the routes /translate, /detect and /languages."""
    router = APIRouter(responses={**REFUSALS, 403: REFUSALS[401]}, tags=["LibreTranslate"])

    async def read(request: Request, shape: type[Body]) -> Body:
        """Returns the body of a request; raises `Refusal` 403, or pydantic's error."""
        content = await request.body()
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
            body = shape.model_validate_json(content)
        else:
            try:
                fields = parse_qs(content.decode(), keep_blank_values=True, max_num_fields=limits.sentences + 10)
            except ValueError as error:
                raise Refusal(422, "the body is neither JSON nor a form") from error
            body = shape.model_validate({name: each if len(each) > 1 else each[0] for name, each in fields.items()})
        if not keys.allow(body.api_key or key_of(request)):
            raise Refusal(403, "Invalid API key")
        return body

    @router.post("/translate", openapi_extra=_body(LibreTranslateRequest), response_model_exclude_none=True)
    async def libre_translate(request: Request) -> LibreTranslation:
        """Translates paragraphs, sentence by sentence, and keeps the white space between sentences."""
        body = await read(request, LibreTranslateRequest)
        texts = [body.q] if isinstance(body.q, str) else body.q
        check_texts(texts, limits)
        sources, detected = [body.source] * len(texts), None
        if body.source == "auto":
            codes = [source for source, targets in models.languages.items() if body.target in targets]
            if not codes:
                models.find(target=body.target)  # refuses it
            detected = [(await asyncio.to_thread(_detect, text, codes))[0] for text in texts]
            sources = [each.language for each in detected]
        translations: dict[int, list[str]] = {}
        for source in dict.fromkeys(sources):
            rows = [row for row, each in enumerate(sources) if each == source]
            model = models.find(source=source, target=body.target)
            translated = await _translate(model, [texts[row] for row in rows], body.alternatives)
            translations.update(zip(rows, translated, strict=True))
        best, *others = zip(*(translations[row] for row in range(len(texts))), strict=True) if texts else [()]
        alternatives = [list(each) for each in zip(*others, strict=True)] if others else None
        if isinstance(body.q, list):
            return LibreTranslation(translatedText=list(best), detectedLanguage=detected, alternatives=alternatives)
        return LibreTranslation(
            translatedText=best[0],
            detectedLanguage=detected[0] if detected else None,
            alternatives=alternatives[0] if alternatives else None,
        )

    @router.post("/detect", openapi_extra=_body(LibreDetectRequest))
    async def libre_detect(request: Request) -> list[DetectedLanguage]:
        """Identifies the language of a text, among those of the models; the most probable first."""
        body = await read(request, LibreDetectRequest)
        check_texts([body.q], limits)
        return await asyncio.to_thread(_detect, body.q, list(models.languages))

    @router.get("/languages")
    async def libre_languages() -> list[LibreLanguage]:
        """Lists the languages to translate from, and those that each is translated into."""
        return [
            LibreLanguage(code=source, name=NAMES.get(source, source), targets=targets)
            for source, targets in models.languages.items()
        ]

    return router


async def _translate(model: ServedModel, texts: Sequence[str], alternatives: int) -> list[list[str]]:
    """Returns the best translation of each text, and so many alternatives: those of all its sentences of one rank."""
    splitter = Splitter(model.source)
    split = [splitter.paragraph(text) if splitter.is_available else lines_as_sentences(text) for text in texts]
    search: tuple[tuple[str, Any], ...] = ()
    if alternatives and model.translator.config.search.beam_size <= alternatives:
        search = (("beam_size", 1 + alternatives),)
    lines = [sentence for each in split for sentence in each.sentences]
    results = iter(
        await model.translate(list(map(SourceSentence, lines)), HowToTranslate(1 + alternatives, search=search))
    )
    answers = []
    for text in split:
        # Where there are fewer translations, the last one stands for the others; a sentence may have none.
        ranked = [[each.text for each in next(results).hypotheses] or [""] for _ in text.sentences]
        ranks = range(1 + alternatives)
        between = space_between(model.target)
        answers.append([text.join([each[min(rank, len(each) - 1)] for each in ranked], between) for rank in ranks])
    return answers


def _detect(text: str, languages: Sequence[str]) -> list[DetectedLanguage]:
    if find_spec("py3langid") is None:
        raise Refusal(501, "the server cannot identify languages: it lacks the package py3langid")
    ranked = rank_languages(text, languages)
    return [DetectedLanguage(confidence=round(100.0 * value, 1), language=code) for code, value in ranked]


def _body(shape: type[BaseModel]) -> dict[str, Any]:
    """Describes a body that is read by hand, for OpenAPI."""
    schema = {"schema": shape.model_json_schema()}
    types = ("application/json", "application/x-www-form-urlencoded")
    return {"requestBody": {"required": True, "content": dict.fromkeys(types, schema)}}
