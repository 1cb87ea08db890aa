"""Releases: the plan, the table of states, the judgement. Pure; control performs what they say."""
