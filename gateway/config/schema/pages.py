"""Answers made of files and copies: fallbacks and error pages."""

from __future__ import annotations

from pydantic import Field

from gateway.config.schema.types import (
    AnswerField,
    ErrorStatus,
    FieldValue,
    FilePath,
    FileStatus,
    Flag,
    MediaType,
    Method,
    PathPattern,
    Seconds,
    Section,
    key,
)


class Stale(Section):
    """An old copy instead of a failure."""

    max_age: Seconds = key("24h", description="How old a copy may be.")
    paths: tuple[PathPattern, ...] = key((), description="Paths it holds for; none: all.")
    shared: Flag = key(
        default=False, description="Answers are the same for everybody, whatever the cookies say."
    )
    methods: tuple[Method, ...] = key(
        ("GET", "HEAD"), description="Methods it holds for, of GET and HEAD."
    )


class Static(Section):
    """A file instead of a failure."""

    status: FileStatus = key(200, description="Status of the answer.")
    file: FilePath = Field(description="File with the answer's body, read when the file is.")
    type: MediaType | None = key(None, description="Content-Type; null: by the file's extension.")
    template: Flag | None = key(
        None, description="Fill in {{names}}; null: where the file's name ends in .tmpl."
    )
    fields: dict[AnswerField, FieldValue] = key(
        {}, description="More fields of the answer, by name."
    )
    paths: tuple[PathPattern, ...] = key((), description="Paths it holds for; none: all.")
    methods: tuple[Method, ...] = key(
        ("GET", "HEAD"),
        description="Methods it holds for; one that is not safe only with a status from 400 on.",
    )


class Fallback(Section):
    """One thing to answer with when nothing can serve. Exactly one of the two keys."""

    stale: Stale | None = key(None, description="A stored copy that is no longer fresh.")
    static: Static | None = key(None, description="A file.")


class PageFile(Section):
    """One form of an error page."""

    file: FilePath = Field(description="File with the page, read when the file is.")
    type: MediaType | None = key(None, description="Content-Type; null: by the file's extension.")
    template: Flag | None = key(
        None, description="Fill in {{names}}; null: where the file's name ends in .tmpl."
    )


class ErrorPage(Section):
    """A page for some statuses, in the forms that a client may accept."""

    on: tuple[ErrorStatus, ...] = Field(
        min_length=1,
        description="Statuses such as 404, or 4xx and 5xx; a status wins over a class.",
    )
    files: tuple[PageFile, ...] = Field(
        min_length=1, description="Forms of the page; the request's Accept chooses."
    )
    intercept: Flag = key(
        default=False, description="Also instead of the backend's own answers with these statuses."
    )
