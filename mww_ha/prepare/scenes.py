"""Clips → scenes: minutes of running sound with words in it, as a satellite would hear them.

A scene is one room, one microphone and one background that never stops; words are placed into it with gaps, the
first after more than four seconds, so that the frontend is warm and no word stands after digital silence. What
is said where is known to the sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mww_ha.config import AugmentSettings
from mww_ha.prepare import augment
from mww_ha.schema import SAMPLE_RATE_HZ, Label
from mww_ha.shards import FIELD

Floats = npt.NDArray[np.float32]

LEAD_S = 4.2
"""Background before the first word; a frontend started cold agrees with a running one after 3.7 s (measured)."""

RIR_TAPS = 8000
"""Half a second of room."""

FIELD_WORDS = 0.75
"""Of the words in a scene for judged captures; the others are what is said around them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One clip inside a pool, trimmed to what is said."""

    clip: str  # clip id
    label: Label
    source: str  # engine, "recorded" or FIELD: classes of clips that are drawn evenly
    speaker: str
    text: str = ""
    start: int  # first sample in the pool
    length: int  # samples, with a little silence after the end
    spoken: int  # samples from start to the end of speech


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A word in a scene."""

    word: Word
    start: int  # sample
    end: int  # sample where speech ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """int16 samples and what is said in them."""

    samples: npt.NDArray[np.int16]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A background and a room: ``background`` quiet | noise | babble | colour | talker."""

    background: str
    snr_db: float
    reverb: bool


class Pool:
    """The decoded clips of one split: one memory-mapped int16 file and an index by label, source and speaker.

    Words that satellites captured are found by their clip only, never drawn: they are few and alike, and have scenes
    of their own.
    """

    def __init__(self, path: Path, words: Sequence[Word], noises: Sequence[Word], rirs: Floats) -> None:
        self.samples: npt.NDArray[np.int16] = (
            np.memmap(path, np.int16, "r") if path.stat().st_size else np.zeros(0, np.int16)
        )
        self.words = tuple(words)
        self.noises = tuple(noises)
        self.by_clip = {word.clip: word for word in (*words, *noises)}
        self.rirs = rirs  # [count, RIR_TAPS], aligned
        self._tree: dict[Label, dict[str, dict[str, list[Word]]]] = {}
        for word in words:
            if word.source == FIELD:
                continue
            self._tree.setdefault(word.label, {}).setdefault(word.source, {}).setdefault(word.speaker, []).append(word)

    def has(self, label: Label) -> bool:
        """Whether any clip has this label."""
        return label in self._tree

    def draw(self, label: Label, rng: np.random.Generator, recorded_share: float) -> Word:
        """One clip: first the source, then the speaker, then the clip, so that no numerous voice drowns the others.

        Recorded clips get ``recorded_share`` (1: nothing else, 0: none, where there is a choice), the engines the rest
        by the fourth root of their number of voices: 832 voices of one engine are not 832 ways of speaking.
        """
        sources = self._tree[label]
        names = list(sources)
        weights = np.array([len(sources[name]) ** 0.25 for name in names])
        if "recorded" in sources and len(names) > 1:
            real = np.array([name == "recorded" for name in names])
            weights = np.where(real, recorded_share, (1 - recorded_share) * weights / weights[~real].sum())
        source = sources[names[int(rng.choice(len(names), p=weights / weights.sum()))]]
        speakers = list(source)
        clips = source[speakers[int(rng.integers(len(speakers)))]]
        return clips[int(rng.integers(len(clips)))]

    def load(self, word: Word) -> Floats:
        """Its samples as float32 in -1..1."""
        return self.samples[word.start : word.start + word.length].astype(np.float32) / np.float32(32768)


class SceneMaker:
    """Composes scenes from one pool. All randomness comes from the generator passed to each call."""

    def __init__(self, pool: Pool, settings: AugmentSettings, scene_s: float = 20.0) -> None:
        self.pool = pool
        self.settings = settings
        self.samples = int(scene_s * SAMPLE_RATE_HZ)  # of the scenes made from now on

    # ---- words -------------------------------------------------------------------------------------------------

    def _chance(self, effect: Sequence[float], rng: np.random.Generator, otherwise: float) -> float:
        """A value of an effect (probability, low, high), or ``otherwise``."""
        probability, low, high = effect
        return float(rng.uniform(low, high)) if rng.random() < probability else otherwise

    def _utter(self, word: Word, rng: np.random.Generator, varied: bool) -> tuple[Floats, int]:
        """Samples of a word with a voice and a level of its own, and where speech ends in them."""
        sound = self.pool.load(word)
        spoken = word.spoken
        if varied:
            factor = self._chance(self.settings.speed, rng, 1.0)
            if factor != 1.0:
                sound = augment.change_speed(sound[None], np.array([factor]))[0]
                spoken = int(spoken / factor)
        sound = sound / (float(np.sqrt(np.mean(sound[:spoken] ** 2))) + 1e-6) * 0.1
        if varied:
            sound = sound * augment.decibels(rng.uniform(-4, 4))
        return sound, min(spoken, len(sound))

    def _cut(self, word: Word, rng: np.random.Generator) -> Word:
        """A piece of 0.3 to 1.6 s of a longer clip: short speech after silence must not wake."""
        want = int(rng.uniform(0.3, 1.6) * SAMPLE_RATE_HZ)
        if word.spoken <= want * 1.2:
            return word
        at = int(rng.integers(0, word.spoken - want))
        return Word(
            clip=word.clip,
            label=word.label,
            source=word.source,
            speaker=word.speaker,
            start=word.start + at,
            length=want,
            spoken=want,
        )

    def lay_words(
        self,
        labels: Sequence[tuple[Label, float]],
        rng: np.random.Generator,
        *,
        dense: bool,
        cut: float = 0.5,
        varied: bool = True,
        recorded_share: float | None = None,
        field: Sequence[Word] = (),
    ) -> tuple[Floats, list[Event]]:
        """A track full of words drawn by ``labels`` (label, weight); ``dense`` leaves hardly a gap.

        ``field``: words that come in between, ``FIELD_WORDS`` of all.
        """
        share = self.settings.recorded_share if recorded_share is None else recorded_share
        track = np.zeros(self.samples, np.float32)
        events: list[Event] = []
        known = [(label, weight) for label, weight in labels if self.pool.has(label)]
        weights = np.array([weight for _, weight in known])
        at = int((LEAD_S if not dense else 0.5) * SAMPLE_RATE_HZ)
        while known:
            if field and rng.random() < FIELD_WORDS:
                word = field[int(rng.integers(len(field)))]
            else:
                label = known[int(rng.choice(len(known), p=weights / weights.sum()))][0]
                word = self.pool.draw(label, rng, share)
            label = word.label
            if label is Label.SPEECH and rng.random() < cut:
                word = self._cut(word, rng)
            sound, spoken = self._utter(word, rng, varied)
            if at + len(sound) > self.samples - SAMPLE_RATE_HZ // 2:
                if dense and self.samples - at > 2 * SAMPLE_RATE_HZ:
                    sound = sound[: self.samples - at - SAMPLE_RATE_HZ // 2]
                    spoken = min(spoken, len(sound))
                else:
                    break
            fade = min(160, len(sound) // 4)
            ramp = np.linspace(0, 1, fade, dtype=np.float32)
            sound = sound.copy()
            sound[:fade] *= ramp
            sound[len(sound) - fade :] *= ramp[::-1]
            track[at : at + len(sound)] += sound
            events.append(Event(word=word, start=at, end=at + spoken))
            gap_s = (
                rng.uniform(0.05, 0.4) if dense or rng.random() < self.settings.run_on_share else rng.uniform(0.4, 2)
            )
            at += len(sound) + int(gap_s * SAMPLE_RATE_HZ)
        return track, events

    # ---- backgrounds -------------------------------------------------------------------------------------------

    def draw_condition(self, rng: np.random.Generator) -> Condition:
        """A training scene's background and room."""
        s = self.settings
        shares = {
            "quiet": s.quiet_share,
            "noise": s.noise_share,
            "babble": s.babble_share,
            "talker": s.talker_share,
            "colour": s.colour_share,
        }
        names = list(shares)
        p = np.array([shares[n] for n in names])
        name = names[int(rng.choice(len(names), p=p / p.sum()))]
        low, high = {
            "quiet": s.quiet_snr_db,
            "noise": s.noise_snr_db,
            "babble": s.babble_snr_db,
            "talker": s.talker_snr_db,
            "colour": s.noise_snr_db,
        }[name]
        return Condition(
            background=name, snr_db=float(rng.uniform(low, high)), reverb=bool(rng.random() < s.reverb_probability)
        )

    def _noise_loop(self, rng: np.random.Generator) -> Floats:
        """A recorded background as long as the scene, from a random place, its end blended into its start."""
        word = self.pool.noises[int(rng.integers(len(self.pool.noises)))]
        sound = self.pool.load(word)
        if rng.random() < 0.5:
            sound = augment.change_speed(sound[None], np.array([rng.uniform(0.85, 1.15)]))[0]
        if len(sound) >= self.samples:
            at = int(rng.integers(0, len(sound) - self.samples + 1))
            return sound[at : at + self.samples]
        fade = min(1600, len(sound) // 4)
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        loop = sound[: len(sound) - fade].copy()
        if fade:
            loop[:fade] = loop[:fade] * ramp + sound[len(sound) - fade :] * (1 - ramp)
        shift = int(rng.integers(0, max(1, len(loop))))
        return np.resize(np.roll(loop, shift), self.samples)

    def _colour(self, rng: np.random.Generator) -> Floats:
        """Noise that nobody recorded: a slope of its own, swelling slowly, sometimes with hum or knocks."""
        sound = augment.make_noise(rng, 1, self.samples, np.array([rng.uniform(-0.5, 2.2)]))[0]
        points = rng.uniform(-6, 6, 2 + self.samples // (2 * SAMPLE_RATE_HZ))
        block = 160
        steps = np.linspace(0, len(points) - 1, -(-self.samples // block))
        swell = augment.decibels(np.interp(steps, np.arange(len(points)), points)).astype(np.float32)
        sound = np.asarray(sound * np.repeat(swell, block)[: self.samples], np.float32)
        if rng.random() < 0.3:
            time_s = np.arange(self.samples) / SAMPLE_RATE_HZ
            hum = rng.uniform(45, 400)
            for k in range(1, 6):
                level = rng.uniform(0, 1) / k
                sound += (level * np.sin(2 * np.pi * hum * k * time_s + rng.uniform(0, 6))).astype(np.float32)
        if rng.random() < 0.3:
            for _ in range(int(rng.integers(1, 12))):
                size = int(rng.uniform(0.005, 0.08) * SAMPLE_RATE_HZ)
                at = int(rng.integers(0, self.samples - size))
                knock = rng.standard_normal(size) * np.exp(-np.linspace(0, 6, size)) * rng.uniform(2, 10)
                sound[at : at + size] += knock.astype(np.float32)
        return sound

    def _music(self, rng: np.random.Generator) -> Floats:
        """Chords, a melody and a beat: what a radio plays, as far as a few lines go."""
        out = np.zeros(self.samples, np.float32)
        beat = int(60 / rng.uniform(70, 150) * SAMPLE_RATE_HZ)
        root = rng.uniform(80, 220)
        harmonics = int(rng.integers(3, 12))
        fall = rng.uniform(0.6, 2.0)
        time_s = np.arange(beat * 4, dtype=np.float32) / SAMPLE_RATE_HZ
        for start in range(0, self.samples, beat):
            notes = [(rng.choice([0, 2, 4, 5, 7, 9, 11, 12, 16, 19]), 1) for _ in range(int(rng.integers(1, 3)))]
            if (start // beat) % 4 == 0:
                base = rng.choice([0, 5, 7, 9])
                notes += [(base, 4), (base + 4, 4), (base + 7, 4)]
            for semitone, beats in notes:
                size = min(beat * beats, self.samples - start)
                pitch = root * 2 ** (semitone / 12)
                tone = np.zeros(size, np.float32)
                for k in range(1, harmonics + 1):
                    if pitch * k < 7500:
                        tone += np.sin(2 * np.pi * pitch * k * time_s[:size]) / np.float32(k**fall)
                out[start : start + size] += tone * np.exp(-time_s[:size] * np.float32(rng.uniform(0.5, 4)))
            size = min(2000, self.samples - start)
            out[start : start + size] += (rng.standard_normal(size) * np.exp(-np.arange(size) / 300) * 0.8).astype(
                np.float32
            )
        return out

    def talk(self, talkers: int, rng: np.random.Generator) -> Floats:
        """``talkers`` voices at once, of about equal level, without a pause."""
        out = np.zeros(self.samples, np.float32)
        for _ in range(talkers):
            track, _events = self.lay_words([(Label.SPEECH, 1.0)], rng, dense=True, cut=0.1, varied=talkers == 1)
            # What the last word left free, and the lead, would be seconds of silence: the talk begins again there.
            track = np.resize(np.trim_zeros(track), self.samples)
            level = float(np.sqrt(np.mean(track**2))) + 1e-6
            out += np.roll(track, int(rng.integers(self.samples))) / level * augment.decibels(rng.uniform(-3, 3))
        return out

    def make_background(self, name: str, rng: np.random.Generator, talkers: int | None = None) -> Floats:
        """Background of the scene's length, not scaled."""
        speech = self.pool.has(Label.SPEECH)
        if name == "babble" and speech:
            return self.talk(talkers or int(rng.integers(3, 8)), rng)
        if name == "talker":
            if speech and rng.random() < 0.7:
                return self.talk(1, rng)
            return self._music(rng)
        if name == "noise" and self.pool.noises:
            return self._noise_loop(rng)
        return self._colour(rng)

    # ---- rooms and microphones ---------------------------------------------------------------------------------

    def _reverberate(self, track: Floats, rng: np.random.Generator) -> Floats:
        if len(self.pool.rirs) and rng.random() < self.settings.measured_rir_share:
            rir = self.pool.rirs[int(rng.integers(len(self.pool.rirs)))][None]
        else:
            rir = augment.make_rirs(rng, 1, RIR_TAPS)
        wet: Floats = augment.reverberate(track[None], rir)[0]
        return wet

    def finish(
        self,
        track: Floats | None,
        condition: Condition,
        rng: np.random.Generator,
        *,
        varied: bool,
        talkers: int | None = None,
    ) -> npt.NDArray[np.int16]:
        """Room, background, microphone and gain over a track of words (None: background alone) → int16."""
        background = self.make_background(condition.background, rng, talkers)
        background = background / (float(np.sqrt(np.mean(background**2))) + 1e-6)
        s = self.settings
        if condition.background in ("babble", "talker") and rng.random() < s.reverb_probability:
            background = self._reverberate(background, rng)
        if track is None or not np.any(track):
            mix = background
        else:
            if condition.reverb:
                track = self._reverberate(track, rng)
            active = augment.find_active(track[None])
            mix = augment.mix_at_snr(track[None], background[None], np.array([condition.snr_db]), active)[0]
        if varied:
            if rng.random() < s.response[0]:
                spread = s.response[2]
                curve = rng.uniform(-spread, spread, (1, len(augment.EQ_BANDS_HZ)))
                mix = augment.colour_response(mix[None], curve)[0]
            drive = self._chance(s.saturation, rng, 0.0)
            if drive:
                mix = augment.saturate(mix[None], np.array([drive]))[0]
            ceiling = self._chance(s.clipping, rng, 1.0)
            if ceiling < 1:
                mix = augment.limit_peaks(mix[None], np.array([ceiling]))[0]
        level_db = float(rng.uniform(s.level_dbfs[0], s.level_dbfs[1])) if varied else -26.0
        mix = mix / (float(np.sqrt(np.mean(mix**2))) + 1e-9) * augment.decibels(level_db)
        floor = rng.standard_normal(len(mix)).astype(np.float32) * np.float32(augment.decibels(-84.0))
        samples: npt.NDArray[np.int16] = np.clip(np.rint((mix + floor) * 32768), -32768, 32767).astype(np.int16)
        return samples

    # ---- scenes ------------------------------------------------------------------------------------------------

    def make(self, kind: str, rng: np.random.Generator, *, recorded_share: float | None = None) -> Scene:
        """A training scene: ``kind`` wake | confusable | speech | noise."""
        condition = self.draw_condition(rng)
        if kind == "noise":
            while condition.background == "quiet":
                condition = self.draw_condition(rng)
            return Scene(samples=self.finish(None, condition, rng, varied=True), events=())
        mixes: dict[str, list[tuple[Label, float]]] = {
            "wake": [(Label.WAKE, 0.7), (Label.CONFUSABLE, 0.15), (Label.SPEECH, 0.15)],
            "confusable": [(Label.CONFUSABLE, 0.8), (Label.SPEECH, 0.2)],
            "speech": [(Label.SPEECH, 1.0)],
        }
        dense = kind == "speech" and rng.random() < 0.7
        cut = 0.15 if kind == "speech" else 0.7
        track, events = self.lay_words(mixes[kind], rng, dense=dense, cut=cut, recorded_share=recorded_share)
        return Scene(samples=self.finish(track, condition, rng, varied=True), events=tuple(events))

    def make_field(self, words: Sequence[Word], rng: np.random.Generator) -> Scene:
        """A training scene for judged captures: ``words`` among others, in no room but the one they came from."""
        condition = dataclasses.replace(self.draw_condition(rng), reverb=False)
        around = [(Label.SPEECH, 0.6), (Label.CONFUSABLE, 0.3), (Label.WAKE, 0.1)]
        track, events = self.lay_words(around, rng, dense=False, cut=0.7, field=words)
        return Scene(samples=self.finish(track, condition, rng, varied=True), events=tuple(events))

    def make_trial(self, words: Sequence[Word], condition: Condition, rng: np.random.Generator, gap_s: float) -> Scene:
        """A test scene: these words, unchanged, ``gap_s`` apart in one fixed condition. As long as it needs."""
        pieces, events = [np.zeros(int(LEAD_S * SAMPLE_RATE_HZ), np.float32)], []
        at = len(pieces[0])
        for word in words:
            sound, spoken = self._utter(word, rng, False)
            events.append(Event(word=word, start=at, end=at + spoken))
            gap = np.zeros(int((gap_s + rng.uniform(0, 0.5)) * SAMPLE_RATE_HZ), np.float32)
            pieces += [sound, gap]
            at += len(sound) + len(gap)
        track = np.concatenate(pieces)
        whole, self.samples = self.samples, len(track)
        try:
            samples = self.finish(track, condition, rng, varied=False, talkers=4)
        finally:
            self.samples = whole
        return Scene(samples=samples, events=tuple(events))


CONDITIONS: dict[str, Condition] = {
    "quiet": Condition(background="quiet", snr_db=25.0, reverb=False),
    "noise": Condition(background="noise", snr_db=10.0, reverb=False),
    "babble": Condition(background="babble", snr_db=5.0, reverb=False),
    "room": Condition(background="noise", snr_db=15.0, reverb=True),
}
"""The conditions of every report: recall is given for each, babble with four talkers."""
