"""Secrets stay secret."""

import pytest

from launcher.contract.masking import is_secret, mask_environment, mask_text


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MYSQL_PWD"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "hf_token", "OPENAI_APIKEY", "SENTRY_DSN", "KEY"),
        *("AZURE_STORAGE_CONNECTION_STRING", "GH_AUTH", "SSH_KEY_1"),
    ],
)
def test_secret(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "PWD", "OLDPWD", "KEYBOARD", "MONKEY", "SSH_AUTH_SOCK", "PASSES", "RANK"),
        *("TOKENIZERS_PARALLELISM", "LANG", "PINNED"),
    ],
)
def test_no_secret(name):
    assert not is_secret(name)


def test_a_secret_is_masked_wherever_it_stands():
    environ = {"HF_TOKEN": "hf_abcdef", "URL": "https://me:pw@host/x", "CMD": "login hf_abcdef"}
    assert mask_environment(environ) == {
        "HF_TOKEN": "***",
        "URL": "https://***@host/x",
        "CMD": "login ***",
    }


def test_short_values_are_not_searched_for():
    assert mask_environment({"KEY": "1", "N": "11"}) == {"KEY": "***", "N": "11"}
    assert mask_text("plain", ()) == "plain"
