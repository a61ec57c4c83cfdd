"""Pages of a service: HTML made on the server, for people, out of the service's own HTTP API.

A page may show only what its visitor's token opens, for it asks the API for everything, as that visitor; see
`contracts.web.own_api`. It works without JavaScript, asks no other host for anything, and never runs inline code.
"""
