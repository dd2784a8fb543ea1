import { MainAreaWidget } from '@jupyterlab/apputils';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { diffIcon } from '../components/icons';
import { DiffView } from '../panels/diff';
import { DiffModel } from '../panels/diff/model';
import { TrialView } from '../panels/trial';
import { TrialModel } from '../panels/trial/model';
import type { IPoint } from '../tokens';
import type { CommandArgs, ICommandContext } from './context';
import { attempt, DESCRIBED, Targets } from './context';
import { askText } from './dialogs';
import { CommandIDs } from './ids';

/**
 * The commands that open a view in the main area.
 */
export function addViewCommands(
  context: ICommandContext,
  rendermime: IRenderMimeRegistry
): void {
  const { app, documents, service, store, trans } = context;
  const targets = new Targets(context);

  const show = (content: DiffView | TrialView) => {
    const view = new MainAreaWidget({ content });
    app.shell.add(view, context.area, { mode: 'split-right' });
    app.shell.activateById(view.id);
  };

  app.commands.addCommand(CommandIDs.diff, {
    describedBy: DESCRIBED,
    label: args =>
      args['menu']
        ? trans.__('What Changed Since')
        : trans.__('Compare Moments of the Sandbox'),
    caption: trans.__(
      'Packages, files, variables and cells that differ between two moments'
    ),
    icon: diffIcon,
    isEnabled: args => targets.sandbox(args) !== null,
    execute: (args: CommandArgs) => {
      const sandbox = targets.sandbox(args);
      if (!sandbox) {
        return;
      }
      const now: IPoint = { sandbox: sandbox.id };
      const snapshot = targets.snapshot(args);
      const other = args['with'];
      let before: IPoint | null = null;
      if (typeof other === 'string') {
        before = { sandbox: other };
      } else if (snapshot) {
        before = { sandbox: snapshot.sandbox, snapshot: snapshot.id };
      } else if (store.snapshots(sandbox.id)?.has(sandbox.snapshot)) {
        before = { sandbox: sandbox.id, snapshot: sandbox.snapshot };
      }
      const model = new DiffModel(
        service,
        store,
        sandbox.id,
        before ?? now,
        now
      );
      show(new DiffView(model, trans));
      if (before) {
        void attempt(async () => {
          // The cells of the present are those of the file.
          await targets.save(sandbox);
          await model.compare();
        });
      }
    }
  });

  app.commands.addCommand(CommandIDs.tryUpgrade, {
    describedBy: DESCRIBED,
    label: trans.__('Try an Upgrade…'),
    caption: trans.__(
      'Run a command in a fork, run the notebook there again, and see what changed'
    ),
    isEnabled: args => {
      const sandbox = targets.sandbox(args);
      return (
        targets.free(sandbox) &&
        Boolean(sandbox.notebook_path) &&
        ['running', 'hibernated'].includes(sandbox.state)
      );
    },
    execute: (args: CommandArgs) =>
      attempt(async () => {
        const sandbox = targets.sandbox(args);
        const given = args['command'];
        const command =
          sandbox &&
          (typeof given === 'string'
            ? given
            : await askText(
                trans.__('Try an Upgrade'),
                context.settings().upgradeCommand,
                trans.__('Try'),
                'pip install -U pandas'
              ));
        if (!sandbox || !command?.trim()) {
          return;
        }
        await targets.save(sandbox);
        const files = {
          remove: (path: string) => documents.deleteFile(path),
          document: () => targets.document(sandbox)
        };
        const model = new TrialModel(
          service,
          store,
          files,
          sandbox,
          command.trim()
        );
        show(new TrialView(model, rendermime, trans));
        await model.run();
      })
  });
}
