"""Routes of the server's own JSON API."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response

from nmt.serve import monitoring
from nmt.serve.keys import Keys
from nmt.serve.limits import Limits, Refusal
from nmt.serve.models import HowToTranslate, Models, ServedModel, SourceSentence
from nmt.serve.page import add_playground
from nmt.serve.schemas import (
    SEARCH_KEYS,
    AlignAnswer,
    AlignedAnswer,
    AlignRequest,
    ErrorAnswer,
    HealthAnswer,
    LineAnswer,
    ModelAnswer,
    PairsRequest,
    ScoreAnswer,
    ScoredAnswer,
    TranslateAnswer,
    TranslateRequest,
)

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "There is no such model or language pair",
        401: "The API key is missing or wrong",
        408: "The body took too long",
        413: "The body or its text is too long",
        422: "The body is no valid request",
        429: "Too much waits already; Retry-After says for how long",
        504: "The translation took too long",
    }.items()
}


def key_of(request: Request) -> str | None:
    """Returns the key in the headers of a request, if there is one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key")


def own_routes(models: Models, limits: Limits, keys: Keys, counts: monitoring.Metrics) -> tuple[APIRouter, APIRouter]:
    """Returns the routes under /api, and those of /health, /metrics and the page of the playground."""

    async def authorize(
        request: Request,
        authorization: Annotated[str | None, Header(description="Bearer KEY")] = None,
        x_api_key: Annotated[str | None, Header(description="the key alone")] = None,
    ) -> None:
        if not keys.allow(key_of(request)):
            reason = "API key missing or wrong; send it as Authorization: Bearer KEY"
            raise Refusal(401, reason, {"WWW-Authenticate": "Bearer"})

    router = APIRouter()
    guarded = APIRouter(prefix="/api", dependencies=[Depends(authorize)], responses=REFUSALS, tags=["nmt"])

    @guarded.get("/models")
    async def list_models() -> list[ModelAnswer]:
        """Lists the models."""
        return [
            ModelAnswer(
                model=each.name, source=each.source, target=each.target, attention=each.translator.has_attention
            )
            for each in models.all
        ]

    @guarded.post("/translate", response_model=TranslateAnswer)
    async def translate(body: TranslateRequest) -> Response:
        """Translates sentences. The result of one does not depend on the others."""
        model = models.find(body.model, body.source, body.target)
        search = tuple((key, value) for key in SEARCH_KEYS if (value := getattr(body, key)) is not None)
        lines, prefixes = body.lines, body.prefixes
        if prefixes is not None and len(prefixes) != len(lines):
            raise Refusal(422, f"prefixes: has {len(prefixes)} entries, and lines has {len(lines)}; give one for each")
        how = HowToTranslate(body.n_best, body.attention, body.heads, prefixes is not None, search, body.seed)
        sources = [SourceSentence(*each) for each in zip(lines, prefixes or [""] * len(lines), strict=True)]
        results = await model.translate(sources, how)

        def in_json() -> str:
            return TranslateAnswer(model=model.name, lines=list(map(LineAnswer.of, results))).model_dump_json()

        # Weights may be a million numbers. They are written on another thread, whose start costs more than a sentence.
        text = await asyncio.to_thread(in_json) if body.attention or body.heads else in_json()
        return Response(text, media_type="application/json")

    @guarded.post("/score")
    async def score(body: PairsRequest) -> ScoreAnswer:
        """Returns the log-probabilities of given translations."""
        model = models.find(body.model, body.source, body.target)
        check_pairs(model, body)
        results = await model.alone(lambda each: each.score(body.sources, body.targets), len(body.sources))
        return ScoreAnswer(model=model.name, pairs=list(map(ScoredAnswer.of, results)))

    @guarded.post("/align")
    async def align(body: AlignRequest) -> AlignAnswer:
        """Aligns given translations by the attention with which each piece is predicted."""
        model = models.find(body.model, body.source, body.target)
        model.require_attention()
        sides = check_pairs(model, body)
        model.check_weights(*sides, 1 + body.heads * model.heads)
        results = await model.alone(
            lambda each: each.align(body.sources, body.targets, unit=body.unit, linking=body.linking),
            len(body.sources),
        )
        pairs = await asyncio.to_thread(lambda: [AlignedAnswer.of(result, body.heads) for result in results])
        return AlignAnswer(model=model.name, pairs=pairs)

    def check_pairs(model: ServedModel, body: PairsRequest) -> tuple[list[int], list[int]]:
        """Returns the numbers of pieces of both sides; raises `Refusal`."""
        if len(body.sources) != len(body.targets):
            counts = f"{len(body.targets)} entries, and sources has {len(body.sources)}"
            raise Refusal(422, f"targets: has {counts}; give one for each")
        return model.pieces(body.sources), model.pieces(body.targets, target=True)

    @router.get("/health", tags=["operation"], responses={503: {"model": ErrorAnswer}})
    async def health() -> HealthAnswer:
        """Answers 200 while all models can translate, and 503 otherwise."""
        if broken := [each.name for each in models.all if not each.batcher.is_alive]:
            raise Refusal(503, f"models that no longer translate: {', '.join(broken)}")
        return HealthAnswer(models=[each.name for each in models.all])

    @router.get("/metrics", tags=["operation"], dependencies=[Depends(authorize)], response_class=Response)
    async def prometheus_metrics() -> Response:
        """Returns metrics in the text format of Prometheus."""
        return Response(counts.text(), headers={"content-type": monitoring.CONTENT_TYPE})

    add_playground(router, guarded, models)
    return guarded, router
