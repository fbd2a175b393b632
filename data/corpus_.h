/* The words and sentences of the built-in corpus; corpus.c is the machine that joins them. All of it was
 * written for brim. In a sentence, $ and a letter is a slot (see SLOTS below and scene_slot in corpus.c), ~
 * is "n " or " " after an "a" as the next letter wants it, and ^ makes the next letter a capital. The first
 * letter of a sentence always is.
 */
#ifndef BRIM_CORPUS_INTERNAL_H
#define BRIM_CORPUS_INTERNAL_H

typedef struct Noun {
    const char *one, *many;
} Noun;

typedef struct Verb {
    const char *many, *one; /* "they sleep", "it sleeps" */
} Verb;

static const char *const WOMEN[] = {"Anna", "Clara", "Ella", "Greta", "Ida",  "Lucy",  "Maria", "Nora",
                                    "Rose", "Vera",  "Alma", "Bella", "Dora", "Edith", "Flora", "Hanna"};
static const char *const MEN[] = {"Tom",  "Ben",   "Emil", "Hugo",   "Jonas", "Karl",  "Leo",    "Martin",
                                  "Otto", "Simon", "Adam", "Caspar", "David", "Felix", "Gustav", "Ivan"};

static const Noun THINGS[] = {
    {"lantern", "lanterns"},   {"basket", "baskets"},   {"letter", "letters"},     {"key", "keys"},
    {"map", "maps"},           {"bell", "bells"},       {"clock", "clocks"},       {"kettle", "kettles"},
    {"ladder", "ladders"},     {"mirror", "mirrors"},   {"drum", "drums"},         {"coat", "coats"},
    {"candle", "candles"},     {"hammer", "hammers"},   {"ribbon", "ribbons"},     {"wheel", "wheels"},
    {"barrel", "barrels"},     {"blanket", "blankets"}, {"bottle", "bottles"},     {"box", "boxes"},
    {"brush", "brushes"},      {"knife", "knives"},     {"rope", "ropes"},         {"spoon", "spoons"},
    {"umbrella", "umbrellas"}, {"whistle", "whistles"}, {"engine", "engines"},     {"book", "books"},
    {"oar", "oars"},           {"shelf", "shelves"},    {"cup", "cups"},           {"saddle", "saddles"},
    {"anchor", "anchors"},     {"axe", "axes"},         {"button", "buttons"},     {"chair", "chairs"},
    {"compass", "compasses"},  {"crown", "crowns"},     {"feather", "feathers"},   {"fiddle", "fiddles"},
    {"glove", "gloves"},       {"hat", "hats"},         {"jar", "jars"},           {"kite", "kites"},
    {"lamp", "lamps"},         {"loaf", "loaves"},      {"necklace", "necklaces"}, {"needle", "needles"},
    {"pillow", "pillows"},     {"puppet", "puppets"},   {"ring", "rings"},         {"sack", "sacks"},
    {"scarf", "scarves"},      {"shovel", "shovels"},   {"tent", "tents"},         {"watch", "watches"},
};
static const Noun CREATURES[] = {
    {"dog", "dogs"},           {"cat", "cats"},       {"horse", "horses"},
    {"goose", "geese"},        {"mouse", "mice"},     {"fox", "foxes"},
    {"sheep", "sheep"},        {"owl", "owls"},       {"hen", "hens"},
    {"goat", "goats"},         {"donkey", "donkeys"}, {"rabbit", "rabbits"},
    {"swan", "swans"},         {"crow", "crows"},     {"frog", "frogs"},
    {"wolf", "wolves"},        {"ox", "oxen"},        {"otter", "otters"},
    {"pony", "ponies"},        {"deer", "deer"},      {"badger", "badgers"},
    {"calf", "calves"},        {"duck", "ducks"},     {"finch", "finches"},
    {"hedgehog", "hedgehogs"}, {"lamb", "lambs"},     {"moth", "moths"},
    {"parrot", "parrots"},     {"pigeon", "pigeons"}, {"turtle", "turtles"},
};
static const Verb DO[] = {
    {"sleep", "sleeps"},
    {"wait", "waits"},
    {"sing", "sings"},
    {"rest", "rests"},
    {"hide", "hides"},
    {"run", "runs"},
    {"play", "plays"},
    {"stand", "stands"},
    {"eat", "eats"},
    {"drink", "drinks"},
    {"listen", "listens"},
    {"dream", "dreams"},
    {"live", "lives"},
    {"turn around", "turns around"},
    {"watch the road", "watches the road"},
    {"fight", "fights"},
};
static const char *const PLACES[] = {
    "the mill",       "the river",      "the market",  "the old bridge", "the harbor",   "the forest",
    "the garden",     "the station",    "the school",  "the tower",      "the lake",     "the hill",
    "the barn",       "the orchard",    "the library", "the bakery",     "the workshop", "the meadow",
    "the lighthouse", "the village",    "the chapel",  "the ferry",      "the quarry",   "the castle",
    "the museum",     "the vineyard",   "the theater", "the cave",       "the island",   "the stable",
    "the bathhouse",  "the crossroads",
};
static const char *const DAYS[] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                   "Friday", "Saturday", "Sunday"};

static const char *const SMALL_NUMBERS[] = {
    "zero",     "one",     "two",     "three",     "four",     "five",     "six",
    "seven",    "eight",   "nine",    "ten",       "eleven",   "twelve",   "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
};
static const char *const TENS[] = {"",      "",      "twenty",  "thirty", "forty",
                                   "fifty", "sixty", "seventy", "eighty", "ninety"};

/* ---- Slots filled anew each time; entries may hold slots themselves -------------------------- */

static const char *const THING_LOOKS[] = {
    "small",   "old",    "heavy",   "bright", "broken",   "wooden", "narrow", "silver",  "plain",
    "painted", "dusty",  "empty",   "blue",   "red",      "yellow", "warm",   "strange", "clean",
    "iron",    "odd",    "crooked", "green",  "golden",   "rusty",  "round",  "square",  "borrowed",
    "cheap",   "famous", "hollow",  "light",  "polished", "rare",   "tiny"};
static const char *const CREATURE_LOOKS[] = {"small",    "old",   "gray",  "brown",  "quiet", "hungry",
                                             "clever",   "lazy",  "brave", "white",  "shy",   "spotted",
                                             "patient",  "noisy", "young", "angry",  "black", "fat",
                                             "friendly", "lame",  "proud", "sleepy", "swift", "tame"};
static const char *const MANNERS[] = {"patient", "careful", "modest", "hurried", "greedy", "clever",
                                      "idle",    "wise",    "silent", "proud",   "kind",   "stubborn",
                                      "bold",    "gentle",  "merry",  "nervous", "sober",  "thrifty"};
static const char *const FEELINGS[] = {"glad",  "tired",   "proud",     "worried", "curious", "calm",
                                       "angry", "hopeful", "surprised", "lonely",  "content", "ashamed"};
static const char *const TRADES[] = {"baker",     "miller",     "teacher", "sailor", "gardener", "carpenter",
                                     "painter",   "farmer",     "doctor",  "tailor", "shepherd", "captain",
                                     "innkeeper", "blacksmith", "weaver",  "hunter", "cobbler",  "judge",
                                     "librarian", "mason",      "nurse",   "potter", "singer",   "beekeeper"};
static const char *const FOODS[] = {"bread",      "soup",      "cheese",     "honey",        "apple pie",
                                    "roast corn", "plum cake", "porridge",   "fresh butter", "black tea",
                                    "pea stew",   "warm milk", "pears",      "noodles",      "dried figs",
                                    "cabbage",    "walnuts",   "salted fish"};
static const char *const WEATHER[] = {"it rained",
                                      "the wind blew hard",
                                      "snow fell",
                                      "the sun came out",
                                      "fog covered the road",
                                      "thunder rolled over the hills",
                                      "the stars were bright",
                                      "frost lay on the grass",
                                      "the moon rose",
                                      "the rain stopped",
                                      "a rainbow stood over $q",
                                      "the river froze",
                                      "the bells rang at $q",
                                      "the lamps went out",
                                      "hail beat on the roofs"};
static const char *const NEAR[] = {"near",      "behind",      "beside",  "not far from",
                                   "just past", "in front of", "close to"};
static const char *const ADVERBS[] = {"slowly",
                                      "quietly",
                                      "at once",
                                      "with great care",
                                      "without a word",
                                      "again",
                                      "in a hurry",
                                      "before anyone else",
                                      "for the last time",
                                      "at last",
                                      "once more",
                                      "all alone"};
static const char *const TIMES[] = {"in the morning",
                                    "after supper",
                                    "one evening",
                                    "at noon",
                                    "before sunrise",
                                    "late in the autumn",
                                    "on a rainy day",
                                    "that winter",
                                    "on the first day of spring",
                                    "early on $D",
                                    "the day before $D",
                                    "when the snow had melted",
                                    "a week after the fair",
                                    "when $w"};
static const char *const REASONS[] = {
    "the $t was lost",          "nobody had seen the $b $c", "$w",
    "$B had promised to come",  "the road to $q was closed", "the $o needed help",
    "there was no more $f",     "the $X were too heavy",     "it was market day",
    "the $o had sold every $x", "a~$b $u had eaten the $f",  "the $a $x was only borrowed"};
static const char *const HANDLED[] = {"found",    "carried",  "mended",  "painted",  "hid",      "bought",
                                      "sold",     "lost",     "cleaned", "kept",     "borrowed", "dropped",
                                      "measured", "wrapped",  "drew",    "polished", "lifted",   "opened",
                                      "pawned",   "repaired", "shook",   "stole",    "weighed",  "noticed"};
static const char *const DID[] = {"waited", "sang",    "rested",  "listened", "worked",   "slept",
                                  "played", "laughed", "read",    "walked",   "danced",   "talked",
                                  "argued", "cried",   "dreamed", "fished",   "whistled", "yawned"};
/* A second adjective now and then. $1 and $2 are bare things, $3 and $4 bare creatures. */
static const char *const THING[] = {"$1", "$1", "$a $1"};
static const char *const SOME_THINGS[] = {"$2", "$2", "$a $2"};
static const char *const CREATURE[] = {"$3", "$3", "$b $3"};
static const char *const SOME_CREATURES[] = {"$4", "$4", "$b $4"};
static const char *const SPOKE[] = {"said", "answered", "whispered", "called",
                                    "said", "replied",  "shouted",   "said"};

/* letter, list */
#define CORPUS_SLOTS(X)                                                                                      \
    X('a', THING_LOOKS)                                                                                      \
    X('b', CREATURE_LOOKS)                                                                                   \
    X('g', MANNERS)                                                                                          \
    X('e', FEELINGS)                                                                                         \
    X('o', TRADES)                                                                                           \
    X('f', FOODS)                                                                                            \
    X('w', WEATHER)                                                                                          \
    X('n', NEAR)                                                                                             \
    X('y', ADVERBS)                                                                                          \
    X('d', TIMES)                                                                                            \
    X('r', REASONS)                                                                                          \
    X('V', HANDLED)                                                                                          \
    X('v', DID)                                                                                              \
    X('l', SPOKE)                                                                                            \
    X('q', PLACES)                                                                                           \
    X('x', THING)                                                                                            \
    X('X', SOME_THINGS)                                                                                      \
    X('u', CREATURE)                                                                                         \
    X('U', SOME_CREATURES)                                                                                   \
    X('D', DAYS)

/* ---- Sentences ------------------------------------------------------------------------------- */

static const char *const OPENINGS[] = {
    "$d, $A went to $p with a~$a $t.",
    "$A lived $n $p and kept a~$b $c.",
    "there was once a~$o who owned $m $X and a~$a $t.",
    "$d, a~$g $o came to $p and asked for $A.",
    "$A had lost a~$t, and $s $b $c was no help.",
    "nobody knew who had left the $a $t $n $p.",
    "$d, $A and $B were $n $p, and both were $e.",
    "the $t at $p was older than the $o.",
    "$A wanted only two things: a~$a $t and a~$b $c.",
    "$d, $A heard a~$c $n $p.",
    "for $m years the $t had hung in $p.",
    "on $D the $o of $p gave $A a~$a $t.",
    "$B told everyone that $A had $V the $t.",
};
static const char *const MIDDLES[] = {
    "$h $V the $t $y.",
    "because $r, $A stayed $n $q until $w.",
    "$B asked if the $t was for sale, but $A shook $s head.",
    "\"where did you find the $t?\" asked $B.",
    "the $o gave $i $m $X and a~$a $x.",
    "$n $q $h met a~$b $u and $m $U.",
    "when $w, the $b $c ran to $q.",
    "$h had never seen such a~$a $x before.",
    "nobody at $q could say why $r.",
    "$A and $B $v $n $p for $m hours.",
    "then $h $V $m $X, one after another.",
    "\"^the $t belongs to the $o,\" $l $B $y.",
    "it was a~$a $t, and $h liked it.",
    "$B was $e, because $r.",
    "at $q there was $f for everyone.",
    "the road from $p to $q was long, so $h $v $y.",
    "$h put the $t under a~$a $x and $v.",
    "every $x at $q was $a, and every $u was $b.",
    "$B counted the $X: one, two, three, and no more.",
    "the $o looked at the $t and said that it was $a.",
    "$s $c followed $i as far as $q.",
    "\"^if the $t breaks again,\" $l the $o, \"bring it to me.\"",
    "$k $V the $x, and $h $V the $t.",
    "by evening $h was $e, but $B was not.",
    "some say that the $c $v $y when $w.",
    "$h looked for it $n $q, under the $X and behind the $x.",
    "it cost $m coins, more than a~$x and less than a~$u.",
    "instead of the $t, $h took the $a $x.",
    "there were $m $U on the road, and one of them was $b.",
    "$h asked the $o, the $o asked $B, and $B only $v.",
    "\"^we shall need more $f,\" $l $A, \"and a~$a $x.\"",
    "a~$b $u $v $n $q all day.",
    "$h thanked $j and gave $j the $x.",
    "inside the $x was a~$a $x, and inside that was nothing.",
    "$d, the $g $o came back with $m $U.",
    "the $T were gone, and so was the $c.",
    "\"^who will carry the $T to $q?\" asked the $o.",
    "$h wrote $z name on the $a $x.",
    "when the $c was hungry, it ate $f.",
    "not one of the $U was $b, and not one of the $X was $a.",
    "they ate $f $n $p and $v until $w.",
};
static const char *const ENDINGS[] = {
    "and so the $t came back to $p.",
    "after that, $A was never $e again.",
    "$h still keeps the $t $n $p.",
    "from then on, the $c slept beside the $t.",
    "that is why the $o of $p owns a~$a $x.",
    "and $B? ^$k went home and ate $f.",
    "in the end the $t was worth $m $X.",
    "nobody ever asked about the $t again.",
    "\"^well,\" $l $B, \"a~$a $t is better than none.\"",
    "when $w, they were already home.",
    "the $c is there to this day, $b and $b.",
};
static const char *const QUESTIONS[] = {
    "\"have you seen my $a $t?\"",
    "\"why are you so $e today?\"",
    "\"who $V the $X?\"",
    "\"is it far to $q?\"",
    "\"what did the $o say about the $c?\"",
    "\"shall we go to $q on $D?\"",
    "\"how many $X do you have?\"",
    "\"does your $c like $f?\"",
    "\"what is in the $a $x?\"",
    "\"did you hear the $u last night?\"",
    "\"may I borrow your $x until $D?\"",
    "\"where do the $U go in winter?\"",
};
/* ANSWERS[i] answers QUESTIONS[i]; the speaker follows. */
static const char *const ANSWERS[][3] = {
    {"\"it is $n $q, under the $x,\"", "\"the $o has it,\"", "\"no, but I found a~$a $x,\""},
    {"\"because $r,\"", "\"I am not $e, only hungry,\"", "\"my $c ran away, and $r,\""},
    {"\"it was the $o, with $m $U,\"", "\"nobody knows, but $w that night,\"",
     "\"I did, and I would do it again,\""},
    {"\"$m miles, if the bridge still stands,\"", "\"no, it is just past $p,\"",
     "\"ask the $o, who goes there every $D,\""},
    {"\"that it is $b, and wants more $f,\"", "\"only that $r,\"", "\"not a word; the $o just $v,\""},
    {"\"yes, and we shall take $f and a~$x,\"", "\"no, $D is better,\"", "\"only if the $g $o comes too,\""},
    {"\"I have $m, and $B has $m,\"", "\"none, since $r,\"", "\"more $X than $X, and more $U than both,\""},
    {"\"it likes $f better,\"", "\"yes, but never on $D,\"", "\"it eats $f, $X, and anything $a,\""},
    {"\"a~$x, a~$x, and some $f,\"", "\"nothing that a~$o could use,\"",
     "\"look for yourself, but look $y,\""},
    {"\"I did, and it was $n $q,\"", "\"no, I only heard that $w,\"", "\"that was no $u, that was the $o,\""},
    {"\"yes, but bring it back clean,\"", "\"I gave it to $B when $w,\"",
     "\"take the $a one; the other is broken,\""},
    {"\"to $q, where there is $f,\"", "\"the $o says they sleep $n $q,\"",
     "\"nobody has followed them past $q,\""},
};
static const char *const SAYINGS[] = {
    "a~$g $o is worth $m $g ones.",
    "who loses the $x should not blame the $u.",
    "where there is $f, there is soon a~$b $u.",
    "never trade a~$a $x for a~$a $x.",
    "one $u at home is better than $m $n $q.",
    "the $g $o mends the $x before it breaks.",
    "a~$b $u does not fear the $x.",
    "$f tastes best to the $g.",
    "ask a~$o about $X, and a~$o about $U.",
    "the $u that sleeps on $D is hungry on $D.",
    "even a~$a $x shines when the $o is $g.",
};
/* Ballad stanzas: lines one and three are free, lines two and four end alike. */
static const char *const VERSE_FREE[] = {
    "the $b $C are going home,",
    "a~$a $t hangs by the door,",
    "$A has a~$b $c,",
    "the $o sings of $X and $U,",
    "$m $X and a~$a $x,",
    "come out, come out, you $b $U,",
    "$w, and $A $v,",
    "O carry the $a $t to me,",
    "the $x is $a, the $u is $b,",
    "no $o knows the $t I lost,",
};
static const char *const VERSE_ENDS[][6] = {
    {"where the quiet waters flow.", "and the evening lamps burn low.", "over fields of early snow.",
     "where the summer berries grow.", "when the wind begins to blow.", "down the only road I know."},
    {"and the stars are in the sky.", "while the swallows hurry by.", "where the grass is tall and dry.",
     "and nobody wonders why.", "and the ships go sailing by.", "and we never said goodbye."},
    {"in the middle of the night.", "by a single candle's light.", "till the hills are far from sight.",
     "when the frost is hard and white.", "and the doors are fastened tight.",
     "hoping it will turn out right."},
    {"on the far side of the hill.", "where the wheel is standing still.", "by the window of the mill.",
     "though the wind is sharp and chill.", "and I think they always will.", "for a coin and not a quill."},
    {"at the closing of the day.", "when the boats are in the bay.", "and the children run to play.",
     "in the pleasant month of May.", "when the carts are full of hay.", "and it will not go away."},
    {"and the kettle starts to sing.", "on the morning of the spring.", "like a bird upon the wing.",
     "for the daughter of the king.", "with a button and a string.", "oh, the gladness it will bring."},
};
static const char *const REFRAINS[] = {
    "sing low, sing high, the $a $t,",
    "ring the $x, ring the $x,",
    "turn, turn, the $a $x,",
    "$f for you and $f for me,",
};
static const char *const LETTERS[] = {
    "thank you for the $a $t; it came on $D.",
    "the $c is well, though it was $b while $w.",
    "here at $p everyone is $e, because $r.",
    "please send $m $X and some $f.",
    "the $o asks about you, and so does the $o's $u.",
    "do you remember the $a $x that we $V $n $q?",
    "come and see us when you can; there is always $f.",
    "I have $V the $x, but not the $t.",
    "last $D I was at $q and saw $m $b $U.",
};

#endif
