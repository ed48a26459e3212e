"""What a node makes of its lexicon: analyzer, concept embedder, explainer. Each once, when it is
first needed, in the search thread: compiling takes a third of a second that nodes without agents
never spend.
"""

from functools import cached_property

from mq9cluster.search.concepts import ConceptEmbedder, concept_id
from mq9cluster.search.explain import Explainer
from mq9cluster.search.lexicon import Lexicon
from mq9cluster.search.text import Analyzer


class Language:
    """The lexicon at work. All but `id` belongs to the search thread."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.id = str(concept_id(lexicon))
        self._lexicon = lexicon

    @cached_property
    def analyzer(self) -> Analyzer:
        """For the text index and text questions."""
        return Analyzer(self._lexicon.empty_words)

    @cached_property
    def concepts(self) -> ConceptEmbedder:
        """The built-in embedder."""
        return ConceptEmbedder(self._lexicon)

    @cached_property
    def explainer(self) -> Explainer:
        """Says why an agent was found."""
        return Explainer(self.analyzer, self.concepts)
