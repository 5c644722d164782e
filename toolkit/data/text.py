"""Text for word embeddings: a LightningDataModule that streams subsampled tokens, with gensim's conventions."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import lightning as L
import numpy as np
import torch
from torch import Tensor

from toolkit.container import atomic_path

LONGEST = 10_000  # tokens of a sentence; longer lines are cut, as gensim does
TEXT8 = "http://mattmahoney.net/dc/text8.zip"
WIKIPEDIA = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class Corpus(NamedTuple):
    """A text: `sentences()` yields lists of tokens, anew with each call."""

    sentences: Callable[[], Iterable[list[str]]]
    name: str


class Tokens(NamedTuple):
    """A batch: tokens after subsampling, in the order of the text."""

    word: Tensor  # int64 [n], numbers in the vocabulary
    sentence: Tensor  # int64 [n], the sentence of each; a window ends where it changes


def embedded() -> Corpus:
    """English texts inside gensim's wheel: 206 Wikipedia pages and the 300 news items of the Lee corpus.

    Lower case, letters only. Sources: Wikipedia (CC BY-SA); Lee, Pincombe, Welsh 2005.
    """
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki
    from gensim.test.utils import datapath
    from gensim.utils import simple_preprocess

    sentences = []
    with bz2.open(datapath(WIKIPEDIA)) as file:
        for _, text, _ in extract_pages(file, ("0",)):
            for paragraph in filter_wiki(text).splitlines():
                sentences.append(simple_preprocess(paragraph, min_len=1, max_len=30))
    with open(datapath("lee_background.cor"), encoding="utf-8") as file:
        sentences += [simple_preprocess(line, min_len=1, max_len=30) for line in file]
    kept = [sentence for sentence in sentences if len(sentence) > 1]
    return Corpus(lambda: kept, "embedded")


def corpus(path: str | Path) -> Corpus:
    """A text file in UTF-8, one sentence a line, tokens between spaces; .gz, .bz2 and .xz are decompressed.

    Raises FileNotFoundError if it is not there; ValueError, when it is read, if it is not such a text.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"expected data.path= to name a text file, got {path}, which is not there")
    return Corpus(lambda: _lines(path), path.name)


def text8(path: str | Path) -> Corpus:
    """100,000,000 bytes of clean Wikipedia text (Mahoney 2006): text8 or text8.zip in a folder, or downloaded.

    Raises FileNotFoundError if there is neither a file nor a network, ValueError for a file of another size.
    """
    root = Path(path).expanduser()
    text, archive = root / "text8", root / "text8.zip"
    if not text.is_file():
        if not archive.is_file():
            _download(TEXT8, archive)
        try:
            with zipfile.ZipFile(archive) as zipped:
                zipped.extract("text8", root)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"expected text8.zip in {root}, got another file ({error}); delete {archive}") from error
    if text.stat().st_size != 100_000_000:
        raise ValueError(f"expected 100000000 bytes in {text}, got {text.stat().st_size}; delete it to download again")
    return Corpus(lambda: _lines(text), "text8")


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urlopen(url, timeout=30) as response, atomic_path(path) as part, part.open("wb") as file:
            while block := response.read(1 << 20):
                file.write(block)
    except (URLError, OSError) as error:
        raise FileNotFoundError(
            f"expected {path}; it is not there and the download of {url} failed ({error}); do: put it there, set "
            "TOOLKIT_DATA or data.path to the folder that holds it, or take data=embedded_text"
        ) from error


def _lines(path: Path) -> Iterator[list[str]]:
    opener = OPENERS.get(path.suffix, open)
    left = ""
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            while block := file.read(1 << 22):  # not line by line: text8 is one line of 100 MB
                if "\0" in block:
                    raise OSError("a NUL byte, as in UTF-16 and binary files")
                *lines, left = (left + block).split("\n")
                for line in lines:
                    yield from _cut(line.split())
                tokens = left.split()
                if len(tokens) > 2 * LONGEST:
                    left = "" if left[-1].isspace() else tokens.pop()
                    yield from _cut(tokens)
    except (UnicodeDecodeError, OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(
            f"expected {path} to be text in UTF-8, and what its ending says ({error}); convert or rename it"
        ) from error
    yield from _cut(left.split())


def _cut(tokens: list[str]) -> Iterator[list[str]]:
    for i in range(0, len(tokens), LONGEST):
        yield tokens[i : i + LONGEST]


class Text(L.LightningDataModule):
    """Tokens of one corpus, in batches; `corpus(path)`, or `corpus()` without a path, is called when first needed.

    After `setup()`: `words`, the most frequent first and ties in alphabetical order; `counts` int64 [words] in the
    training part; `keep` float64 [words], the probability that an occurrence survives subsampling; `shape` (words,);
    `name`.

    min_count: words with fewer occurrences are left out; sample: gensim's threshold of subsampling; phrases: join
    frequent pairs of words with gensim's Phrases; validation_tokens: the last ones of the text, never trained on;
    batch_tokens: before subsampling; seed: of subsampling. Raises ValueError for wrong arguments and for a text with
    too few words.
    """

    def __init__(
        self, corpus: Callable[..., Corpus], min_count: int, sample: float, phrases: bool, validation_tokens: int,
        batch_tokens: int, seed: int, path: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if min_count < 1 or sample <= 0 or validation_tokens < 1 or batch_tokens < 1 or seed < 0:
            raise ValueError(
                "expected min_count, validation_tokens, batch_tokens of at least 1, sample above 0 and seed of at "
                f"least 0, got {min_count}, {validation_tokens}, {batch_tokens}, {sample} and {seed}"
            )
        self.corpus, self.path, self.min_count, self.sample, self.phrases = corpus, path, min_count, sample, phrases
        self.validation_tokens, self.batch_tokens, self.seed = validation_tokens, batch_tokens, seed
        self.words: list[str] = []
        self.counts: Tensor  # int64 [words]
        self.keep: Tensor  # float64 [words]
        self.shape: tuple[int]
        self.name: str

    def prepare_data(self) -> None:
        """Load, in one process of a machine only: this is where a download happens."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Read the text twice, the first time that this is called: for the vocabulary, and for the tokens."""
        if self.words:
            return
        source = self.corpus() if self.path is None else self.corpus(self.path)
        sentences = _with_phrases(source) if self.phrases else source.sentences
        total = Counter[str]()
        for sentence in sentences():
            total.update(sentence)
        words = sorted((w for w in total if total[w] >= self.min_count), key=lambda w: (-total[w], w))
        number = {word: i for i, word in enumerate(words)}
        parts = [np.array([number[w] for w in s if w in number], np.int32) for s in sentences()]
        tokens = sum(map(len, parts))
        if len(words) < 2 or tokens <= 2 * self.validation_tokens:
            raise ValueError(
                f"expected a text with more than {2 * self.validation_tokens} tokens of words that occur "
                f"{self.min_count} times or more, got {tokens} of {len(words)} words in {source.name}; give a longer "
                "text, or lower data.min_count or data.validation_tokens"
            )
        self.words, self.name, self.shape = words, source.name, (len(words),)
        self._tokens = torch.from_numpy(np.concatenate(parts))
        self._sentences = torch.from_numpy(np.repeat(np.arange(len(parts), dtype=np.int32), list(map(len, parts))))
        # Of words that occur in the held-out part alone, the count is 1: every word has a place in the tables.
        trained = torch.bincount(self._tokens[: self._train_tokens].long(), minlength=len(words))
        self.counts = trained.clamp(min=1)
        # Mikolov et al. 2013, arXiv:1310.4546, as word2vec computes it: (sqrt(f / t) + 1) t / f.
        ratio = self.sample * self.counts.sum() / self.counts.double()
        self.keep = (ratio.sqrt() + ratio).clamp(max=1)

    @property
    def _train_tokens(self) -> int:
        return len(self._tokens) - self.validation_tokens

    def summary(self) -> str:
        """How much there is, for people."""
        return f"{self._train_tokens} training tokens of {len(self.words)} words, {self.validation_tokens} validation"

    def train_dataloader(self) -> Any:
        """Batches of the training tokens, in the order of the text, subsampled anew each epoch."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        starts = range(0, self._train_tokens, self.batch_tokens)
        mine = starts[rank : len(starts) - len(starts) % world : world]  # as many for each process
        return _Stream(self, mine, lambda: (trainer.current_epoch if trainer else 0) + 1)

    def val_dataloader(self) -> Any:
        """Batches of the held-out tokens, subsampled always alike."""
        return _Stream(self, range(self._train_tokens, len(self._tokens), self.batch_tokens), lambda: 0)

    def batch(self, start: int, epoch: int) -> Tokens:
        """The tokens from `start` on that survive subsampling; a function of its arguments and the seed alone."""
        end = min(start + self.batch_tokens, self._train_tokens if start < self._train_tokens else len(self._tokens))
        word, sentence = self._tokens[start:end].long(), self._sentences[start:end].long()
        state = np.random.SeedSequence([self.seed, epoch, start]).generate_state(1, np.uint64)
        chance = torch.rand(len(word), generator=torch.Generator().manual_seed(int(state[0])), dtype=torch.float64)
        kept = chance < self.keep[word]
        return Tokens(word[kept], sentence[kept])


class _Stream:
    """What a Lightning Trainer takes as a loader: an iterable with a length."""

    batch_sampler = None  # Lightning asks for it where there is a sampler

    def __init__(self, text: Text, starts: range, epoch: Callable[[], int]) -> None:
        self.text, self.starts, self.epoch = text, starts, epoch

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Tokens]:
        for start in self.starts:
            yield self.text.batch(start, self.epoch())


def _with_phrases(source: Corpus) -> Callable[[], Iterable[list[str]]]:
    from gensim.models.phrases import ENGLISH_CONNECTOR_WORDS, Phrases

    frozen = Phrases(source.sentences(), connector_words=ENGLISH_CONNECTOR_WORDS).freeze()
    return lambda: (_spaceless(frozen[sentence]) for sentence in source.sentences())


def _spaceless(tokens: list[str]) -> list[str]:
    return [re.sub(r"\s", "_", token) for token in tokens]
