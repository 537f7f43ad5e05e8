"""Fields: every setting, with its default, its bounds and its description (pydantic-settings).

Each module holds those of one subject: a new setting goes where an operator would look for it. The examples
list them in the order of `Plain`. Knows how a value is written only by its kind (values.py), and not where
values come from (loading.py).
"""

from pydantic import field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from smtp2cf.settings.fields.access import AccessFields
from smtp2cf.settings.fields.account import AccountFields
from smtp2cf.settings.fields.events import EventsFields
from smtp2cf.settings.fields.limits import LimitsFields
from smtp2cf.settings.fields.listening import ListeningFields
from smtp2cf.settings.fields.messages import MessagesFields
from smtp2cf.settings.fields.notices import NoticesFields
from smtp2cf.settings.fields.running import RunningFields
from smtp2cf.settings.fields.tables import TablesFields
from smtp2cf.settings.fields.waiting import WaitingFields
from smtp2cf.settings.fields.webhook import WebhookFields

PREFIX = "SMTP2CF_"


class SettingsError(Exception):
    """The settings are wrong; each argument is a line for the operator."""

    def __str__(self) -> str:
        return "\n".join(self.args)


class Plain(
    # The fields of the last base come first.
    RunningFields,
    WebhookFields,
    NoticesFields,
    WaitingFields,
    MessagesFields,
    LimitsFields,
    AccessFields,
    ListeningFields,
    EventsFields,
    AccountFields,
    BaseSettings,
):
    """What can be set anywhere: one value for each name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value


class Settings(TablesFields, Plain):
    """Everything an operator can set."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the env file, and neither has tables. What files say comes in as
        arguments.
        """
        env_file = dotenv_settings.env_file if isinstance(dotenv_settings, DotEnvSettingsSource) else None
        return (init_settings, EnvSettingsSource(Plain), DotEnvSettingsSource(Plain, env_file=env_file))
