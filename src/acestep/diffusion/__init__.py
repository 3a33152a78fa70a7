"""Schedules, samplers, guidance and losses: pure tensor functions that know torch and nothing else of ours."""
