"""Tells on the model's card in Label Studio which labels it cannot read, and the last verdict on what it learned.

People who work there see no other page of ours.
"""

from __future__ import annotations

import logging

from plugin_config.errors import LabelStudioError, LabelStudioFailing, LabelStudioUnreachable
from plugin_config.label_studio.model_cards import model_cards, rename
from plugin_config.label_studio.webhooks import leads_here
from plugin_config.versions.verdicts import last_verdict
from worker.service.context import WorkerContext
from worker.service.plan import Plan

log = logging.getLogger(__name__)


def tell_on_card(context: WorkerContext, plan: Plan) -> None:
    """Write behind the title of this backend's model what people should know, where that is new, or the model was
    connected anew.

    Raises:
        LabelStudioUnreachable, LabelStudioFailing: Label Studio cannot be asked now; the next reconcile tries again.
    """
    project, note = plan.project.id, _note(context, plan)
    told = context.ledger.card_note(project)
    # Where nothing was ever told, there is nothing to take back.
    if note == (told or "") and (not note or context.ledger.is_card_fresh(project)):
        return
    seen = True
    try:
        for card in model_cards(context.label_studio, project):
            title = card.telling(note)
            if leads_here(card.url, context.settings) and title != card.title:
                rename(context.label_studio, card, title)
                # Whoever opens the page of models meanwhile has Label Studio store the title that it had before.
                seen = False
                log.info("project %d: its model is called %r now", project, title)
    except (LabelStudioUnreachable, LabelStudioFailing):
        raise
    except LabelStudioError as error:  # such as a user who may not change the project: `zeromask status` tells the same
        log.info("project %d: its model's card does not tell %r. %s", project, note, error)
    context.ledger.set_card_note(project, note, seen=seen)


def _note(context: WorkerContext, plan: Plan) -> str:
    learned = plan.adapter.taught(plan.vocabulary.words) if plan.adapter else ()
    unread = context.segmenter.remarks(plan.vocabulary, learned)
    if unread:
        return "; ".join(unread)
    verdict = last_verdict(context.redis, plan.project.id, context.settings.model)
    return "" if verdict is None else f"{verdict.at[:10]} {verdict.at[11:16]}: {verdict.reason}"
