"""The client of the commands that talk to a server."""

import os

from probity.client.http import Client
from probity.client.profile import load_profile


def client() -> Client:
    """Return a client for the server in force.

    Raises:
        NotSignedIn: neither `probity login` nor the environment names one.
    """
    return Client(load_profile(os.environ))
