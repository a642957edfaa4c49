class VersionOrder:
    """Orders versions for channeldata.json and current_repodata.json, which the benchmark does not write."""

    def __init__(self, version):
        raise NotImplementedError("this benchmark has no conda")
