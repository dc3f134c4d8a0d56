"""Where things lie: the folders of the distribution project's registry (registry/storage/paths.go), and one of ours.

docker/registry/v2/blobs/sha256/ab/abcd…/data                            the content
docker/registry/v2/repositories/NAME/_layers/sha256/abcd…/link           that NAME has this blob
                                    /_manifests/revisions/sha256/abcd…/link      … this manifest
                                    /_manifests/tags/TAG/current/link    the digest that TAG means
                                    /_manifests/tags/TAG/index/sha256/abcd…/link  and those it has meant
                                    /_uploads/UUID/{data,startedat}      what is on its way
                                    /_referrers/sha256/SUBJECT/sha256/abcd…/link  ours: what refers to SUBJECT
"""

ROOT = "docker/registry/v2"
BLOBS = f"{ROOT}/blobs"
REPOSITORIES = f"{ROOT}/repositories"


def _address(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}/{value}"


def blob_folder(digest: str) -> str:
    """The folder of a blob."""
    algorithm, _, value = digest.partition(":")
    return f"{BLOBS}/{algorithm}/{value[:2]}/{value}"


def blob_data(digest: str) -> str:
    """The file with a blob's content."""
    return blob_folder(digest) + "/data"


def repository(name: str) -> str:
    """The folder of a repository."""
    return f"{REPOSITORIES}/{name}"


def layers(name: str) -> str:
    """The folder with the links to a repository's blobs."""
    return f"{REPOSITORIES}/{name}/_layers"


def layer_link(name: str, digest: str) -> str:
    """The link that says that a repository has a blob."""
    return f"{REPOSITORIES}/{name}/_layers/{_address(digest)}/link"


def revisions(name: str) -> str:
    """The folder with the links to a repository's manifests."""
    return f"{REPOSITORIES}/{name}/_manifests/revisions"


def revision_link(name: str, digest: str) -> str:
    """The link that says that a repository has a manifest."""
    return f"{revisions(name)}/{_address(digest)}/link"


def tags(name: str) -> str:
    """The folder of a repository's tags."""
    return f"{REPOSITORIES}/{name}/_manifests/tags"


def tag(name: str, tag: str) -> str:
    """The folder of a tag."""
    return f"{tags(name)}/{tag}"


def tag_link(name: str, tag: str) -> str:
    """The link with the digest that a tag means."""
    return f"{tags(name)}/{tag}/current/link"


def tag_index_link(name: str, tag: str, digest: str) -> str:
    """The link that says that a tag means or has meant a manifest."""
    return f"{tags(name)}/{tag}/index/{_address(digest)}/link"


def uploads(name: str) -> str:
    """The folder of what is on its way to a repository."""
    return f"{REPOSITORIES}/{name}/_uploads"


def upload(name: str, uuid: str) -> str:
    """The folder of one upload."""
    return f"{uploads(name)}/{uuid}"


def referrers(name: str, subject: str) -> str:
    """The folder with the links to what refers to `subject`."""
    return f"{REPOSITORIES}/{name}/_referrers/{_address(subject)}"


def referrer_link(name: str, subject: str, digest: str) -> str:
    """The link that says that the manifest `digest` refers to `subject`."""
    return f"{referrers(name, subject)}/{_address(digest)}/link"
