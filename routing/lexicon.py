"""General words by what they say about a task, in some of the languages people ask in.

These are classes of meaning, not topics seen in the training prompts: what is to be done (operations), how far it is to
be taken (marks), and which field it is in. `word*` stands for every word that begins so, `two_words` for a phrase.
How much a class says is not set here: the weights are fitted (`routing/training/fit.py`).
"""

import re

_OPERATIONS = {
    "transform": """
        translat* convert* rewrite reword rephras* paraphras* shorten* proofread* spell* typo* grammar
        fix_mistakes fix_the_mistakes punctuat* capitali* lowercase uppercase lower_case upper_case title_case
        snake_case format reformat* rename* sort replace remove delete swap turn_into turn_this turn_it
        turn_these turn_those turn_my turn_the make_it make_this make_that change_the correct fix_the_spelling
        tidy clean_up polish put_this put_these put_it put_each say_in synonym* antonym* round plural tense
        alphabetical* add_a bullet_list into_english in_english how_do_you_say übersetz* korrigier*
        rechtschreib* umformulier* kürze was_heißt ersetze traduc* tradui* corrig* reformul* réécri* raccourci*
        cambia converti* corregg* 翻译 英文 перевед* исправ*""",
    "extract": """
        extract* pull_out pick_out list_all list_the find_the count highlight* which_language what_language
        identify_the mentioned does_it does_the_text who_is how_many_times what_is_the_name return_the reply_with
        answer_with yes_or_no classif* label* categor* tag sentiment spam positive_or_negative nenne* extrah* zähle
        extrae* extrai* énumère""",
    "summarise": """
        summar* tl;dr tldr gist key_points main_points boil key_takeaways in_a_nutshell short_title give_a_title
        zusammenfass* fass* résum* resum* riassum* 总结 кратко""",
    "recall": """
        stand_for stands_for capital_of what_year which_year who_wrote who_painted who_invented define definition
        meaning_of mean_in what_does_it_mean how_tall how_high how_old how_far how_long_is when_did when_was
        where_is what_is_the what's_the what_time what_day which_of what_colour what_color name_two name_three
        remind wie_hoch wie_alt wann_wurde quelle_est cuál_es cuándo quanti qual_è 哪里 什么""",
    "chat": """
        hi hello hey yo hola bonjour hallo ciao thanks thank_you thx cheers merci danke gracias good_morning
        good_evening good_night guten how_are_you who_are_you what's_up bored lol haha joke nice great awesome
        happy_birthday happy_new tell_me_a how_was_your kannst_du_mich 你好 привет спасибо""",
    "small_write": """
        haiku limerick rhyme caption* slogan* tagline username* nickname* tweet greeting toast birthday_message
        thank-you thank message text_message reminder note reply_to draft email e-mail mail letter invitation sms
        short_text text_to out_of_office announce* name_for names_for title_for give_me_a_name pun title subtitle
        kurze_absage mensaje carta felicit* lettre courriel письмо""",
    "howto": """
        how_do_i how_can_i how_to steps_to recipe* cook boil tips command_to shortcut how_should_i wie_kann_ich
        wie_kocht wie_mache comment_faire cómo_puedo come_si best_way_to gift* suggest_a ideas 怎么 как_сделать""",
    "explain": """
        explain* describe what_is what_are difference_between how_does how_do what_does teach overview introduc*
        erklär* expliqu* explic* spieg* was_ist qu'est-ce qué_es cos'è объясн* 解释""",
    "agent_small": """
        set_a_timer remind_me turn_on turn_off open_the list_the_files read_the run_the_tests bump add_to_my play
        what's_the_weather weather search_for look_up go_to click""",
    "produce": """
        write create generate compose make come_up_with give_me schreib* erstell* écri* rédig* cré* escrib* crea
        scrivi напиши 写""",
    "write_code": """
        write_a_function function script program snippet one-liner regex regexp regular_expression query sql html
        css dockerfile component endpoint crud class unit_test unit_tests test_for tests_for formula loop print
        method one_liner workflow funktion función fonction funzione функци* 函数""",
    "implement": """
        implement* build create_a_system port_this refactor* rearchitect* optimis* optimiz* speed_up
        make_this_faster make_it_faster migrat* upgrade split rework decompose implementier* implementa*""",
    "prove": """
        prove proof proofs show_that derive deriv* justif* refut* disprove counterexample* rigor* formally lemma
        induction is_it_true must_be beweis* démontr* prouve* demuestr* dimostr* докаж* 证明 herleit* begründ*""",
    "solve": """
        solve determine find_all how_many_ways calculate compute probabilit* expected_value expected_number maximis*
        maximiz* minimis* minimiz* evaluate_the closed_form equation* odds chance estimate what_is_the_chance likely
        evaluate how_likely possible_orders shortest fewest löse berechn* calcul* résou* resuelv* cuántas_formas
        wie_viele 计算 реши*""",
    "debug": """
        bug bugs debug* error* crash* leak leaks memory_leak hang hangs fails failing failed find_the_mistake
        spot_the_mistake segfault* deadlock* stack_trace traceback exception flaky intermittent* wrong_result
        wrong_total doesn't_work not_work loops_forever diagnos* troubleshoot* root_cause what_went_wrong going_on
        track_down likely_causes find_the_cause find_out_why reproduce ursache fehler* erreur* panne ошибк* 错误""",
    "design": """
        design* architect* schema data_model model_a modelling blueprint propose* how_would_you_build how_should_we
        concept structure_for strategy strateg* approach framework policy entwirf entwick* entwurf konzept conçois
        concev* diseñ* progett* спроектир* 设计""",
    "analyse": """
        analys* analyz* evaluat* assess* critiqu* review_this review_the review_my review_our audit* interpret*
        reconcil* investigat* examin* discuss* argue* argument* implication* consequence* second-order trace_the
        weigh poke_holes weaknesses flaw* loophole* fallac* threat* steelman both_sides contradict* limitations
        assumptions confound* hypothes* work_through analysier* bewert* prüfe erörter* analiz* évalu* valuta*
        проанализ* 分析""",
    "compare": """
        compar* versus vs pros_and_cons trade-off* tradeoff* tradeoffs advantages which_is_better what_is_better
        better_off alternatives options contrast* vergleich* lequel cuál_es_mejor срав* 比较""",
    "decide": """
        should_i should_we should_a is_it_worth worth_it would_you do_i_tell what_do_i_do what_should take_it
        is_it_wrong is_it_right is_it_better choose pick_one recommend and_recommend recommendation decide decision
        what_would_you prioriti* rank* order_of which_one_should buy_or sollte* sollten devrais debería conviene
        empfiehl* empfehl*""",
    "plan": """
        plan plans planning itinerary schedule roadmap rota timetable milestones organise organize outline agenda
        checklist rollout packing_list workout menu study_schedule trip prepare plane planifi* plán план* 计划""",
    "why": """
        why how_come how_is_that how_is_it_possible what_explains what_could_explain explanation explanations
        reason_for causes warum wieso pourquoi por_qué perché почему 为什么""",
}

_MARKS = {
    "brief": """
        one-liner one_liner one_line two_lines one_sentence two_sentences three_sentences one_word briefly brief
        short quick quickly just only_the max under_ten few_words short_answer simple kurz kurze kurzen corto corta
        bref court breve one_paragraph nothing_else only_return""",
    "layman": """
        to_a_child like_i'm_five eli5 ten-year-old five-year-old year_old year-old for_beginners beginner grandma
        grandpa granny plain_words simple_words simple_terms my_mum my_mom grandmother kids child children
        newsletter""",
    "extended": """
        detailed in_detail comprehensive thorough* essay report in-depth step_by_step full complete end-to-end deep
        long-form memo proposal whitepaper ausführlich* détaillé* detallad* schritt_für_schritt walk_me_through""",
    "symptom": """
        flips flip vanish* disappear* slower faster forever endless* infinite_loop never_ends never_end never_stops
        not_used ignored twice duplicate* deadlock* hangs freez* stuck grows climbs rises drops spikes lag lags nan
        inf wrong_sign off_by off-by-one sometimes occasionally randomly intermittent* flaky one_time once_in leaks
        overflow segfault* corrupt* lost missing blank stale out_of_memory differs different_results inconsistent
        passes_locally fails_on only_when only_with only_if only_in only_on only_after only_under since_the
        not_anymore no_longer gets_slower got_slower got_worse keeps_growing nur_wenn nur_bei seulement solo_cuando
        langsamer doppelt doublons""",
    "puzzled": """
        how_can_that how_can_this how_can_both how_could_that what_could_it_be what_could_be what_might_be
        what_may_be what_might_explain what_would_explain what_may_explain what_could_cause what_might_cause
        what's_wrong whats_wrong what_is_wrong what's_really_wrong what_went_wrong what's_going_on what_is_going_on
        whats_going_on what_is_happening what's_happening what_is_really where_does_it where_do_i_look where_to_look
        where_would_you_look where_is_it_going root_cause reason what_to_look was_ist_los""",
    "contrast": """
        but yet although though even_though despite however whereas and_yet both_be aber obwohl trotzdem mais
        pourtant pero aunque""",
    "genre": """
        cover_letter product_description job_ad job_description blog blog_post linkedin_post story speech lyrics
        song poem article news_report press_release landing_page resume cv bio performance_review complaint
        announcement newsletter essay description advert toast letter dialogue script_for sketch ad
        lettre_de_motivation bewerbung anschreiben""",
    "limit": """
        must without at_most at_least no_more_than within under only exactly cannot can't never always except unless
        budget constraint* limit* maximum minimum limited deadline until before after fixed capacity afford ohne
        höchstens mindestens sans sin senza nicht_mehr""",
    "condition": """
        if when unless suppose assuming given provided such_that in_case whenever while whether wenn falls si se
        sofern even_if only_if""",
    "quantified": """
        every each all any both either neither none nobody some least most more_than less_than twice half same_as
        next_to left_of right_of taller older faster shorter heavier lighter bigger liar lie truth knave knight true
        false chacun jeder jede cada lügt miente""",
    "first_person": """
        i i'm i've my me we our us we're ich mein meine wir unser je mon ma nous notre yo mi nuestro""",
    "linked": """
        because therefore so_that then finally also including include as_well_as and_then afterwards whereas
        otherwise meanwhile weil damit sondern denn""",
    "hypothetical": """
        would what_if what_happens_if what_happens imagine possible could_be might have_to_be würde* serait sería""",
    "explains_itself": """
        explain_why and_why say_why justify reasoning reasons argue_why show_your show_the_steps how_sure
        what_could_go_wrong edge_cases pitfalls assumptions worst_case failure risks risk side_effects
        correct_because pourquoi mit_begründung consequences weakest strongest tell_apart how_do_i_prove
        where_it_will""",
    "preserving": """
        without_changing without_breaking keep_the backward* compatib* rollback roll_back fallback back-out downtime
        survives survive guarantee* invariant* consisten* idempot* exactly-once exactly_once correct least_invasive
        safely safe""",
}

_FIELDS = {
    "formal": """
        theorem* lemma* integer integers prime* polynomial* matri* vector* integral* integrat* recurrence*
        eigenvalue* diagonali* irreducib* converg* gcd modulo hypotenuse diverg* continuous function_f subgroup*
        countab* irrational rational sequence* series limit_of axiom* undecidab* graph graphs np-hard complexity
        asymptotic* stochastic* variance distribution* eigen* topolog* manifold* logarithm* abelian bijecti*
        injecti* determinis* quantum* relativ* entropy equations combinator* primzahl* convergente nombre_premier
        racional простых""",
    "machinery": """
        parser compiler interpreter scheduler collector checker lexer tokenizer tree trie heap buffer planner
        emulator virtual_machine solver engine allocator simulat* kernel algorithm* algoritm* algorithmus parallel*
        vectori* thread-safe thread_safe lock-free lock_free wait-free concurren* consensus raft paxos crdt*
        incremental* streaming persistent rate_limiter undo inference propagation backtracking dynamic_programming
        in_one_pass linear_time big-o transforms coalesc* linearizab* linearisab* event_loop work_stealing""",
    "software": """
        server* database* api apis deploy* memory endpoint* git github npm docker* nginx python javascript
        typescript java react vue node rust golang pandas sql html css json csv yaml bash excel sheets browser app
        website graphql grpc rest_api oauth http https tcp udp linux windows postgres* mysql redis kubernetes
        fastapi flask django express ssh debian ubuntu backup* folder""",
    "systems": """
        distributed concurren* thread* lock locks mutex race latency throughput shard* replica* failover
        transaction* cache* caching scaling scale scales scalab* queue* consensus partition* goroutine* coroutine*
        failures cluster* load microservice* monolith* multi-tenant tenant* cpu index indexes kafka protocol*
        encrypt* token* permission* sync* real-time event-sourced p99 performance overflow pipeline*""",
    "professional": """
        contract* clause* liabil* lawsuit* tax taxes taxation mortgage* invest investment* investor* portfolio*
        pension* loan* churn margin* pricing competitor* compliance regulat* policy stakeholder* clinical* diagnos*
        dose trial* patient* symptom* therapy evidence statistic* regression sample_size covariate* coefficient*
        p-value pvalue significan* forecast* bias experiment* ethic* econom* inflation monetary negotiat* merger*
        market* strategy conversion* supplier* vertrag* kredit* steuer* finanz* retraite impôt* riesgo*""",
    "abstract": """
        free_will moral* ethic* justice fair* democra* truth knowledge conscious* freedom rights creativ* society
        rational philosoph* theory theories histor* minds belief* paradox* claim claims identity culture theor*
        conflict* principle* metaphor* narrat* interpretation literature gerecht* wahlrecht société liberté sociedad""",
    "everyday": """
        dinner lunch breakfast cake egg eggs rice milk bread soup coffee tea pancakes birthday party wedding gift
        sink tap lamp heating landlord tenant flatmate mum mom dad aunt brother sister friend dog cat hamster kitten
        dinosaur* holiday weekend movie song game phone weather garden plants shirt dress beach school homework
        teacher neighbour* neighbor* colleague* boss bus train_station today tomorrow yesterday monday friday
        morning evening pizza restaurant hotel photo photos photograph* football""",
}

_ALONE = {
    "go_on": """
        continue go on carry proceed next more again retry keep going do it that this yes yeah yep ok okay sure
        ahead and the please now one try both all right correct weiter mach ja sigue continúa sí continuez oui vai
        avanti 继续""",
}
"""Words that, when nothing else is said, refer to what went before."""

_AFTER_DETERMINER = frozenset(
    ("the", "a", "an", "my", "our", "your", "his", "her", "their", "its", "this", "that", "each", "no")
)
_COMMANDS = frozenset(
    ("convert*", "format", "reformat*", "rename", "sort", "replace", "remove", "delete", "swap", "correct", "round",
     "polish", "count", "highlight*", "tag", "label*", "bump", "play", "click")
)  # fmt: skip
"""Entries that are a request only as verbs: `sort this`, but not `why is my sort slow`."""

OPERATIONS = tuple(_OPERATIONS)
CLASSES = (*_OPERATIONS, *_MARKS, *_FIELDS)

_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+(?:[.,:]\d+)*")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


class Lexicon:
    """Looks words and phrases up in their classes: two dictionary look-ups for a word that begins none."""

    def __init__(self) -> None:
        self._phrases: dict[str, list[tuple[list[str], str, bool]]] = {}
        """By their first word; with whether it asks for something only as a verb."""
        self._stems: dict[str, list[tuple[str, str, bool]]] = {}
        """By their first three letters; none is shorter."""
        for name, entries in {**_OPERATIONS, **_MARKS, **_FIELDS, **_ALONE}.items():
            for entry in entries.split():
                command = entry in _COMMANDS
                if entry.endswith("*"):
                    self._stems.setdefault(entry[:3], []).append((entry[:-1], name, command))
                else:
                    first, *_ = phrase = entry.split("_")
                    self._phrases.setdefault(first, []).append((phrase, name, command))

    def classes(self, words: list[str]) -> list[list[str]]:
        """For each position the classes of the word there and of the phrases that begin there."""
        return [self._at(words, position) for position in range(len(words))]

    def lead(self, text: str) -> frozenset[str]:
        """The operations of the first word or phrase of a text that names one."""
        return self.first(self.classes(words_of(text)))

    @staticmethod
    def first(classes: list[list[str]]) -> frozenset[str]:
        """The operations at the first position that has any."""
        return next((here for found in classes if (here := _OPERATION_SET.intersection(found))), frozenset())

    def _at(self, words: list[str], position: int) -> list[str]:
        word = words[position]
        phrases, stems = self._phrases.get(word), self._stems.get(word[:3])
        if not (phrases or stems):
            return []
        noun = position > 0 and words[position - 1] in _AFTER_DETERMINER
        found: list[str] = []
        for phrase, name, command in phrases or ():
            if (len(phrase) == 1 or words[position : position + len(phrase)] == phrase) and not (command and noun):
                found.append(name)
        for stem, name, command in stems or ():
            if word.startswith(stem) and not (command and noun):
                found.append(name)
        return found


_OPERATION_SET = frozenset(OPERATIONS)


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers; scripts without spaces give every pair of characters instead."""
    words = _WORD.findall(text.lower())
    if not _CJK.search(text):
        return words
    return [piece for word in words for piece in (_pairs(word) if _CJK.search(word) else (word,))]


def _pairs(word: str) -> tuple[str, ...]:
    return tuple(word[at : at + 2] for at in range(max(1, len(word) - 1)))
