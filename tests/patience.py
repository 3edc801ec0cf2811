"""Honest work needs time, and on a busy machine more of it: a test that sets a small limit is made with larger ones.

Noise passes at one of them. A defect passes at none, so what hangs in such a test must hang for longer than the
largest limit, and what is compared with the clock must be a multiple of the limit.
"""
import functools, inspect

LIMITS = .4, 2., 8.

def patiently(check, limits=LIMITS):
    "What `check(limit)` says at the first limit at which it passes"
    for limit in limits[:-1]:
        try: return check(limit)
        except AssertionError: pass
    return check(limits[-1])

def patient(*limits):
    "A test with an argument `limit`, made with each of these until it passes"
    def of(test):
        @functools.wraps(test)
        def made(**arguments): return patiently(lambda limit: test(limit=limit, **arguments), limits or LIMITS)
        asks = inspect.signature(test)
        made.__signature__ = asks.replace(parameters=[p for name, p in asks.parameters.items() if name != 'limit'])
        return made
    return of
