"""It takes a configuration as well."""


def build_features(data, config):
    return data[["close"]].pct_change(config["window"])
