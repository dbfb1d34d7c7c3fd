"""The service: a page site for people and its API, a device site that takes captures, and a queue of jobs.

Read ``app`` first (two sites from one core; ``serve``), then ``routes`` (what the page API answers), ``access`` (who
may come in), ``jobs`` (the queue; ``leash``: how a job never outlives the service). The rest serves these: ``openapi``
and ``wire`` (routes and types as data), ``orders`` (what a job can be), ``joblog`` and ``events`` (what happened, live
and again), ``service`` and ``state`` (the core, and what it remembers), ``captures`` (routes of the review), ``keeper``
(scores captures and lets them expire), ``schedule`` (retraining by itself), ``satellites`` (hours of those that send
nothing), ``background`` (how both go on by themselves), ``link`` (Home Assistant and MQTT), ``intake`` (the device
site), ``pages`` (the door), ``panel`` and ``setup`` (the page itself, and before there is a project), ``sockets``,
``training`` (whether it is installed), ``appstart`` (the entry point of Home Assistant's app).
"""
