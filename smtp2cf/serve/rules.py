"""Rules: those of every way in, and how they change while the bridge runs.

Who may send is used as soon as the TOML file says otherwise, by sessions under way too. Where and how a
listener listens waits for a restart.
"""

from collections.abc import Callable, Mapping, Sequence

from smtp2cf.envelope import SenderRefusal
from smtp2cf.settings import quotas
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.fields.tables import ListenerTable
from smtp2cf.settings.listening import Way, relays_for, ways_of
from smtp2cf.smtpd import Rules

GENERAL = ("allow_networks", *quotas.SETTINGS)
"""Settings that are used without a restart."""
LIVE = frozenset(
    {"allow_networks", "allowed_senders", "allowed_recipients", "sender_default", *quotas.OF_LISTENER}
)
"""Keys of [[listener]] that are."""


class RulesInUse:
    """The rules of every way in.

    settings: with the endpoints that are listened on. written: the listeners as they stand in the file. make:
    makes the rules of one way in, as the settings have it.
    """

    def __init__(
        self,
        settings: Settings,
        written: Sequence[ListenerTable],
        make: Callable[[Settings, Way], Rules],
    ) -> None:
        self._settings = settings
        self._written = written
        self._make = make
        self._rules: dict[str, Rules] = {}

    def at(self, way: Way) -> Rules:
        """Who may do what at one way in."""
        if way.name not in self._rules:
            self._rules[way.name] = self._make(self._settings, way)
        return self._rules[way.name]

    def sender_refusal(self, name: str) -> SenderRefusal | None:
        """Who may send as whom at the listener with this name, None if everybody may as anybody."""
        rules = self._rules.get(name)
        return rules.sender_refusal if rules is not None else None

    @property
    def settings(self) -> Settings:
        """Those in use now."""
        return self._settings

    def relays_for(self) -> Mapping[str, str]:
        """Whose clients may send without a password, for the status page."""
        return relays_for(self._settings)

    def use(self, name: str, value: object) -> None:
        """Another value of one of GENERAL, wherever no table says otherwise."""
        self._use(self._settings.model_copy(update={name: value}))

    def use_listeners(self, tables: Sequence[ListenerTable]) -> None:
        """Raises ValueError if the tables differ in what waits for a restart."""
        if [_fixed(table) for table in tables] != [_fixed(table) for table in self._written]:
            raise ValueError("where and how a listener listens is set at the start")
        listens = {table.name: table.listen for table in self._settings.listeners}
        now = tuple(table.model_copy(update={"listen": listens[table.name]}) for table in tables)
        self._use(self._settings.model_copy(update={"listeners": now}))
        self._written = tables

    def _use(self, settings: Settings) -> None:
        self._settings = settings
        for way in ways_of(settings):
            if way.name in self._rules:
                self._rules[way.name].become(self._make(settings, way))


def _fixed(table: ListenerTable) -> dict[str, object]:
    return {name: value for name, value in table if name not in LIVE}
