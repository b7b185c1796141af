"""The pages: server-rendered views over the same services as the API, one folder per area."""
