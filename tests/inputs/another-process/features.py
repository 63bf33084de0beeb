"""It starts a program."""


def build_features(data):
    import subprocess

    subprocess.run(["true"], check=True)
    return data[["close"]].pct_change(5)
