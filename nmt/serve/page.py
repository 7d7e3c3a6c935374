"""The playground: its page, and the searches and given pairs that it asks for."""

from __future__ import annotations

from typing import TypeVar

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from nmt.api.arguments import texts as sound_texts
from nmt.api.text_translator import TextTranslator
from nmt.serve.limits import Refusal
from nmt.serve.models import Models, ServedModel
from nmt.tasks.translation.drawing import page_system
from nmt.tasks.translation.recording import record_pair, record_search
from nmt.visualization.pages import served_page
from nmt.visualization.playground import BeamTrace, PairAttention, PairRequest, StepsRequest

Answer = TypeVar("Answer", BeamTrace, PairAttention)

MOST_PIECES = 100
"""Of a sentence: an answer has numbers for every source piece, hypothesis and step."""


def add_playground(router: APIRouter, guarded: APIRouter, models: Models) -> None:
    """Adds the page to the router, and what it asks to the one that checks keys, whose paths begin with /api."""
    page, policy = served_page([page_system(each.translator.config, each.name) for each in models.all])
    headers = {"content-security-policy": f"{policy}; frame-ancestors 'none'"}

    @router.get("/", tags=["operation"], response_class=HTMLResponse)
    async def show_playground() -> HTMLResponse:
        """Returns the page of the playground."""
        return HTMLResponse(page, headers=headers)

    @guarded.post("/steps")
    async def steps(body: StepsRequest) -> BeamTrace:
        """Returns the beam search for a sentence step by step, with given pieces and attention weights."""
        model = models.find(body.model)
        if body.weights:
            model.require_attention()
        _check(model, body.source)
        sound_texts("prefix", body.prefix)

        def record(translator: TextTranslator) -> BeamTrace | None:
            search = translator.search(kind="beam", beam_size=body.beam_size)
            return record_search(translator.system(search), body.source, search, body.prefix, body.weights)

        return _answer(await model.alone(record, 1))

    @guarded.post("/pair")
    async def pair(body: PairRequest) -> PairAttention:
        """Returns the attention weights of a given translation, and its word alignment."""
        model = models.find(body.model)
        model.require_attention()
        _check(model, body.source)
        _check(model, body.target, target=True)

        def record(translator: TextTranslator) -> PairAttention | None:
            search = translator.search()
            return record_pair(translator.system(search), body.source, body.target, search)

        return _answer(await model.alone(record, 1))


def _check(model: ServedModel, text: str, *, target: bool = False) -> None:
    (pieces,) = model.pieces([text], target=target)
    if pieces > MOST_PIECES:
        raise Refusal(413, f"the playground shows sentences of {MOST_PIECES} pieces or fewer, and this has {pieces}")


def _answer(record: Answer | None) -> Answer:
    if record is None:
        raise Refusal(422, "the text has no piece; send a sentence")
    return record
