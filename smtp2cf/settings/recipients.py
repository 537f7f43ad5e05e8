"""Recipients: what the settings say about who gets mail instead of whom, and what can't be meant so there."""

from collections.abc import Iterator

from smtp2cf.access.recipients import Recipients, RecipientsAt
from smtp2cf.access.recipients_file import RecipientsFile
from smtp2cf.access.senders import PATTERN, Senders, match_key
from smtp2cf.listen.files import FileError
from smtp2cf.settings.fields import Settings, SettingsError
from smtp2cf.settings.listening import Way, ways_of
from smtp2cf.settings.rewriting import own_hosts


def recipients(settings: Settings) -> Recipients:
    """Who gets mail instead of whom, and to whom mail may go."""
    found = Recipients(own_hosts(settings), settings.redirect_all_to)
    found.use_table(settings.recipients)
    found.use_allowed(settings.allowed_recipients)
    found.use_denied(settings.denied_recipients)
    return found


def recipients_file(settings: Settings, found: Recipients) -> RecipientsFile | None:
    """The file that says who gets mail instead of whom, None for none. Raises SettingsError."""
    if settings.recipients_file is None:
        return None
    try:
        return RecipientsFile(settings.recipients_file, found.use_file)
    except FileError as error:
        raise SettingsError(f"SMTP2CF_RECIPIENTS_FILE: {error}") from None


def say_something(settings: Settings) -> bool:
    """Whether the settings say anything about recipients, apart from listeners."""
    lists = settings.allowed_recipients or settings.denied_recipients
    maps = settings.recipients or settings.recipients_file
    return bool(settings.users_file or maps or settings.redirect_all_to or lists)


def recipients_at(way: Way, general: Recipients, *, used: bool) -> Recipients | RecipientsAt | None:
    """Who gets mail that comes in there, None if it is who is named. used: the general ones say something."""
    if way.tabled and (allowed := way.described.allowed_recipients):
        return RecipientsAt(general, allowed, f"allowed_recipients of {way.setting}")
    return general if used else None


def contradictions(settings: Settings) -> Iterator[str]:
    """A line if the file can't be read, and one for each entry of the table that leads to nobody."""
    found = Recipients(own_hosts(settings))
    found.use_table(settings.recipients)
    try:
        recipients_file(settings, found)
    except SettingsError as error:
        yield str(error)
    for pattern, targets in settings.recipients.items():
        if not any(map(found.leads_somewhere, targets)):
            yield f'[recipients] "{pattern}" leads back to itself, so nobody gets the mail: name an address'


def doubts(settings: Settings) -> Iterator[str]:
    """A line for each list or entry that admits nearly everybody, or nobody."""
    listed = {"SMTP2CF_ALLOWED_RECIPIENTS": settings.allowed_recipients}
    listed |= {
        f"allowed_recipients of {way.setting}": way.described.allowed_recipients
        for way in ways_of(settings)
        if way.tabled
    }
    for name, patterns in listed.items():
        yield from _of_a_list(name, patterns, settings.denied_recipients)
    for pattern in filter(_is_whole_top_level, settings.denied_recipients):
        yield f"SMTP2CF_DENIED_RECIPIENTS contains {pattern}, which refuses nearly every address there"
    yield from _refused_targets(settings)


def _of_a_list(name: str, patterns: tuple[str, ...], denied: tuple[str, ...]) -> Iterator[str]:
    for pattern in filter(_is_whole_top_level, patterns):
        yield f"{name} contains {pattern}, which admits nearly every address there: name domains"
    if patterns and all(_is_within(pattern, denied) for pattern in patterns):
        yield f"{name} admits nobody: SMTP2CF_DENIED_RECIPIENTS contains all of it"


def _is_whole_top_level(pattern: str) -> bool:
    found = PATTERN.fullmatch(pattern)
    return found is not None and bool(found["subdomains"]) and "." not in found["domain"]


def _is_within(pattern: str, denied: tuple[str, ...]) -> bool:
    """Whether nobody whom the pattern matches is left by others."""
    found = PATTERN.fullmatch(pattern)
    if not denied or found is None:
        return False
    below = "x." if found["subdomains"] else ""
    local = found["local"] or "*"
    domain = match_key(f"@{found['domain']}")[1]
    # An address that no pattern names stands for all of a domain's.
    sample = f"{'any-other-than-these' if local == '*' else local}@{below}{domain}"
    return Senders.parse(denied).allow(sample)


def _refused_targets(settings: Settings) -> Iterator[str]:
    """Entries of the map whose targets the lists refuse."""
    found = recipients(settings)
    for pattern, targets in settings.recipients.items():
        for target in targets:
            if (refusal := found.refusal(target)) is not None:
                yield f'[recipients] "{pattern}": {refusal.text}'
