"""Secrets stay secret: by the name of what holds them, and by what they look like."""

import pytest

from launcher.contract.masking import (
    Masks,
    is_secret,
    mask_arguments,
    mask_description,
    mask_environment,
    mask_text,
    secrets_of,
)

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MYSQL_PWD"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "hf_token", "OPENAI_APIKEY", "SENTRY_DSN", "KEY"),
        *("AZURE_STORAGE_CONNECTION_STRING", "GH_AUTH", "SSH_KEY_1", "HTTP_AUTHORIZATION"),
        *("GH_PAT", "JWT", "BEARER", "SLACK_WEBHOOK_URL", "SASURL", "SIG", "SIGNATURE"),
        *("GIT_HTTP_EXTRAHEADER", "EXTRA_HEADERS", "X-Amz-Signature", "X-Amz-Credential"),
        *("hub.token", "hub.auth.value", "apiKey", "hub.accessToken", "AccountKey", "--api-key"),
    ],
)
def test_secret(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "PWD", "OLDPWD", "KEYBOARD", "MONKEY", "SSH_AUTH_SOCK", "PASSES", "RANK"),
        *("TOKENIZERS_PARALLELISM", "LANG", "PINNED", "GIT_AUTHOR_NAME", "tokenizer", "pad_token"),
        *("model.tokenizer.path", "author", "pin_memory", "sigma", "path", "pattern", "hookup"),
        *("model.special_tokens", "design", "compat"),
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


def test_short_values_numbers_and_plain_words_are_not_searched_for():
    assert mask_environment({"KEY": "1", "N": "11"}) == {"KEY": "***", "N": "11"}
    assert secrets_of({"A_KEY": "2024", "NO_AUTH": "true", "B_KEY": "null", "PIN": "1e-3"}) == ()
    assert mask_text("plain", ()) == "plain"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@ss@host/a@b", "http://***@host/a@b"),
        ("http://host/a@b", "http://host/a@b"),
        ("https://h/x?sig=abc&v=2", "https://h/x?sig=***&v=2"),
        ("https://h/x?v=2&X-Amz-Signature=abc#end", "https://h/x?v=2&X-Amz-Signature=***#end"),
        ("https://h/x?token=a%20b", "https://h/x?token=***"),
        ("https://h/x?max_tokens=12", "https://h/x?max_tokens=12"),
        ("AccountName=x;AccountKey=q1w2e3==;Suffix=y", "AccountName=x;AccountKey=***;Suffix=y"),
        ("https://hooks.slack.com/services/T0/B0/x", "https://hooks.slack.com/***"),
        ("https://discord.com/api/webhooks/1/x", "https://discord.com/api/webhooks/***"),
        (f"see {JWT}", "see ***"),
        ("hf_" + "a" * 34, "***"),
        ("github_pat_" + "a1_" * 10, "***"),
        ("hf_transfer", "hf_transfer"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("authorization: basic dTpw", "authorization: basic ***"),
        ("basic augmentation", "basic augmentation"),
        ("sk-learn", "sk-learn"),
    ],
)
def test_what_is_masked_in_a_text(text, shown):
    assert mask_text(text, ()) == shown


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--api_token=x9", "--lr=1"], ["--api_token=***", "--lr=1"]),
        (["--api-token", "x9", "--lr", "1"], ["--api-token", "***", "--lr", "1"]),
        (["--api-token", "--lr", "1"], ["--api-token", "--lr", "1"]),
        (["-token", "x9", "in.csv"], ["-token", "***", "in.csv"]),
        (["hub.token=x9", "+hub.key=y9"], ["hub.token=***", "+hub.key=***"]),
        (["--max-tokens=4096", "--max_tokens", "64"], ["--max-tokens=4096", "--max_tokens", "64"]),
        (["--password=1234", "--pin", "12"], ["--password=***", "--pin", "***"]),
        (["--use-auth-token=true", "--pin_memory"], ["--use-auth-token=true", "--pin_memory"]),
        (["--tokenizer=gpt2", "--pad_token=<pad>"], ["--tokenizer=gpt2", "--pad_token=<pad>"]),
        (["--key=longvalue", "a longvalue b"], ["--key=***", "a *** b"]),
        (["https://h/?token=x"], ["https://h/?token=***"]),
        (["--url=https://u:p@h/x"], ["--url=https://***@h/x"]),
        (["--H", "a=b"], ["--H", "a=b"]),
        (["env-secret"], ["***"]),
        (["--token="], ["--token="]),
        ([], []),
    ],
)
def test_arguments(words, shown):
    assert mask_arguments(words, ["env-secret"]) == shown


def test_a_description_hides_a_secret_under_every_key():
    told = {
        "script": "/x/train.py",
        "arguments": ["--api_token", "tok-12345", "--lr=0.1"],
        "checkpoints": None,
        "seed": 0,
        "config": {
            "api_token": "tok-12345",
            "note": "pushed with tok-12345 and pw-98765",
            "lr": 0.1,
            "max_tokens": 4096,
            "num_key_value_heads": 8,
            "hub": {"auth": {"user": "me-too", "password": 1234}, "keys": ["k-1", "k-2"]},
            "db_password": "pw-98765",
            "pin_memory": True,
            "secret": None,
            "data": "https://h/x?sig=abc",
        },
    }
    assert mask_description(told, ["env-secret"]) == {
        "script": "/x/train.py",
        "arguments": ["--api_token", "***", "--lr=0.1"],
        "checkpoints": None,
        "seed": 0,
        "config": {
            "api_token": "***",
            "note": "pushed with *** and ***",
            "lr": 0.1,
            "max_tokens": 4096,
            "num_key_value_heads": 8,
            "hub": {"auth": {"user": "***", "password": "***"}, "keys": ["***", "***"]},
            "db_password": "***",
            "pin_memory": True,
            "secret": None,
            "data": "https://h/x?sig=***",
        },
    }


def test_masks_know_the_environment_and_the_settings_as_they_are_by_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks = Masks()
    assert masks.text("key s3cr3t-of-it, of settings hunter22") == (
        "key s3cr3t-of-it, of settings hunter22"
    )
    monkeypatch.setenv("MY_API_KEY", "s3cr3t-of-it")
    masks.settings = {"password": "hunter22"}
    assert masks.text("key s3cr3t-of-it, of settings hunter22") == "key ***, of settings ***"
    assert masks.description({"said": "hunter22"}) == {"said": "***"}
