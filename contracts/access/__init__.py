"""Who calls over HTTP, and what they may do: bearer tokens, scopes, and the account that a token is bound to.

The same for both services; each says in one table what its routes need (`rules`), and finds out in its own way whose a
service token is.
"""
