"""The fork server, which has imported torch once: client, server, child."""
